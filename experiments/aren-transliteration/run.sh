#!/usr/bin/env bash
# A pretrained transliterator, Arabic names to English characters: imported, its attention swapped,
# finetuned; beside it the teacher trained on for as long, and T2R from scratch for as long. Minutes
# on one thread; what is done is not done again.
#   bash experiments/aren-transliteration/run.sh MODEL_FOLDER DATA_FOLDER [OUT]
# MODEL_FOLDER is CTranslate2's aren-transliteration (binary version 2), DATA_FOLDER holds
# ar2en-{train,eval,test}.txt, plain or .gz (google/transliteration). TOKENS= and RESULTS= change
# the budget and the table; T2R_LAUNCH=, THREADS= and T2R_BUILD= as in ../translation_rows.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=experiments/translation_rows.sh
source "$here/../translation_rows.sh"
case ${1:-} in
  -h | --help) usage; exit 0 ;;
  "") usage >&2; exit 2 ;;
  -*) fail "unknown option $1: -h explains the arguments" 2 ;;
esac
[ $# -le 3 ] || fail "unknown argument $4: -h explains the arguments" 2
for folder in "$1" "${2:-}"; do [ -d "$folder" ] || fail "'$folder' is not a folder"; done
pretrained=$(cd "$1" && pwd) names=$(cd "$2" && pwd)

# ---- the experiment ------------------------------------------------------------------------------
tokens=${TOKENS:-1500000} # target characters of each training (13 epochs)
precision=fp32
training=(--tokens "$tokens" --batch-tokens 500 --dropout 0.1 --label-smoothing 0.1 --seed 1
  --learning-rate 2e-3 --eval-every 500 --checkpoint-every 500)
scratch=(--layers 6 --hidden-size 32 --heads 8 --ffn-size 128 --tied false)
t2r_map=(--feature-map t2r --feature-size 16)
# --------------------------------------------------------------------------------------------------

columns=$'run\tattention\tstart\tcharacters\tminutes\tvalid loss\tcharacter error rate\texact match'
columns+=$'\tnames a second'
start_rows "${3:-aren-run}" "${RESULTS:-}"
copy_text "$(plain_or_gz "$names" ar2en-test.txt)" test.tsv
cut -f 1 test.tsv >test.ar
cut -f 2 test.tsv >test.en
data=data
[ -e teacher/config.json ] || "$t2r" import --from "$pretrained" --out teacher
prepare --tsv "$(plain_or_gz "$names" ar2en-train.txt)" \
  --valid-tsv "$(plain_or_gz "$names" ar2en-eval.txt)" --joint-vocabulary false \
  --tokenizer teacher/tokenizer.model --source-tokenizer teacher/source.tokenizer.model \
  --source-eos false

# score MODEL: greedy transliterations of the test set, and the model's line of the table, once.
score() {
  rows+=("$1")
  if in_results "$1"; then return; fi
  mkdir -p scores
  local start
  start=$(date +%s.%N)
  stoppable "$t2r" evaluate --model "$1" --source test.ar --references test.en --beam 1 \
    --threads "$threads" --json >"scores/$1.json"
  python3 -c "import sys, time; print(time.time() - float(sys.argv[1]))" "$start" >"scores/$1.time"
  "$t2r" evaluate --model "$1" --data "$data" --json --threads "$threads" >"scores/$1.loss.json"
  python3 - "$1" >>"$results" <<'PYTHON'
import json, os, sys
run = sys.argv[1]
load = lambda path: json.load(open(path))
scores, loss = load(f"scores/{run}.json"), load(f"scores/{run}.loss.json")
trained = {"attention": "t2r k=16" if run == "t2r-swapped" else "softmax", "start": "as it is",
           "tokens": 0, "rank_seconds": 0}
if os.path.exists(f"{run}/summary.json"):
    trained = load(f"{run}/summary.json")
print(run, trained["attention"], trained["start"], trained["tokens"],
      f'{trained["rank_seconds"] / 60:.1f}', f'{loss["loss"]:.4f}',
      f'{scores["character_error_rate"]:.2f}', f'{scores["exact_match"]:.2f}',
      f'{scores["sentences"] / load(f"scores/{run}.time"):.0f}', sep="\t")
PYTHON
}

train() { # RUN OPTIONS...
  local run=$1
  shift
  [ -e "$run/summary.json" ] || stoppable "${launch[@]}" "$t2r" train --data "$data" --out "$run" \
    --threads "$threads" --precision "$precision" "${training[@]}" "$@"
  score "$run"
}

score teacher
[ -e t2r-swapped/config.json ] ||
  "$t2r" convert --model teacher --out t2r-swapped --seed 1 "${t2r_map[@]}"
score t2r-swapped
train t2r-converted --model t2r-swapped
train teacher-trained-on --model teacher
train t2r-scratch "${scratch[@]}" "${t2r_map[@]}"
column -t -s $'\t' "$results"
