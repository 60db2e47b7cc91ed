#!/usr/bin/env bash
# Multi30k, English to German: a softmax translator; T2R, ELU and RFA converted from it; T2R from
# scratch on the conversion's updates and on the teacher's; the last layer kept softmax. Every run
# can be interrupted and goes on when this is run again; results.tsv gets a line as each ends.
#   bash experiments/multi30k-en-de/run.sh FOLDER_WITH_MULTI30K [OUT]
# FOLDER_WITH_MULTI30K holds {train,val,test_2016_flickr}.{en,de}, plain or .gz (task 1, raw).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
text=$(cd "$1" && pwd) out=${2:-multi30k-run}
build=${T2R_BUILD:-$here/../../build}
t2r=$build/bin/t2r
[ -x "$t2r" ] || { echo "$t2r is missing: build first (cmake --build build)" >&2; exit 1; }

# ---- the experiment -------------------------------------------------------------------------------
tokens=${TOKENS:-7000000}      # target tokens of the teacher (about 15 epochs)
fifth=$((tokens / 5))          # of each conversion
precision=${PRECISION:-fp32}
model=(--layers 3 --hidden-size 256 --heads 4 --ffn-size 1024 --max-positions 256)
training=(--batch-tokens 1000 --dropout 0.3 --label-smoothing 0.1 --seed 1 --eval-every 490
  --checkpoint-every 490 --keep 5 --precision "$precision")
rate=2e-3 finetune_rate=1e-3
maps=(--feature-size 32 --causal-feature-size 4)
# ---------------------------------------------------------------------------------------------------

file() { # NAME: the path, plain or .gz
  for name in "$text/$1" "$text/$1.gz"; do [ ! -e "$name" ] || { echo "$name"; return; }; done
  echo "$text holds neither $1 nor $1.gz" >&2
  return 1
}
train_en=$(file train.en) train_de=$(file train.de) val_en=$(file val.en) val_de=$(file val.de)
test_en=$(file test_2016_flickr.en) test_de=$(file test_2016_flickr.de)

mkdir -p "$out" && cd "$out"
for pair in "test.en $test_en" "test.de $test_de"; do
  set -- $pair
  case $2 in *.gz) gzip -dc "$2" >"$1" ;; *) cp "$2" "$1" ;; esac
done
[ -e data/dataset.json ] || "$t2r" prepare --source "$train_en" --target "$train_de" \
  --valid-source "$val_en" --valid-target "$val_de" --vocab-size 8000 --out data

results=${RESULTS:-$here/results.tsv}
[ -e "$results" ] || printf 'run\tattention\tstart\ttokens\tFLOPs\tminutes\tvalid loss\ttest BLEU\ttest chrF\tsentences a second\n' >"$results"

# finish RUN: its translations of the test set, and its line of the table, once.
finish() {
  grep -q "^$1	" "$results" && return
  local start seconds
  start=$(date +%s.%N)
  "$t2r" translate --model "$1" --input test.en --output "$1/test.de.part" --beam 5 \
    --length-penalty 0.6 --precision "$precision"
  seconds=$(python3 -c "import sys,time; print(time.time() - float(sys.argv[1]))" "$start")
  mv "$1/test.de.part" "$1/test.de"
  "$t2r" evaluate --hypotheses "$1/test.de" --references test.de --json >"$1/scores.json"
  python3 - "$1" "$seconds" >>"$results" <<'PYTHON'
import json, sys
run, seconds = sys.argv[1], float(sys.argv[2])
load = lambda name: json.load(open(f"{run}/{name}.json"))
s, scores = load("summary"), load("scores")
print(run, s["attention"], s["start"], s["tokens"], f'{s["flops"]:.3g}',
      f'{s["rank_seconds"] / 60:.1f}', f'{s["loss"]:.4f}', f'{scores["bleu"]:.2f}',
      f'{scores["chrf"]:.2f}', f'{scores["sentences"] / seconds:.1f}', sep="\t")
PYTHON
}

run() { # RUN TOKENS OPTIONS...
  local name=$1 budget=$2
  shift 2
  [ -e "$name/summary.json" ] ||
    "$t2r" train --data data --out "$name" --tokens "$budget" "${training[@]}" "$@"
  finish "$name"
}
convert() { # NAME OPTIONS...: the swap, then finetuning on a fifth of the teacher's tokens
  local name=$1
  shift
  [ -e "swapped/$name/config.json" ] ||
    "$t2r" convert --model teacher --out "swapped/$name" --seed 1 "$@"
  run "$name-converted" $fifth --model "swapped/$name" --learning-rate $finetune_rate
}

run teacher "$tokens" "${model[@]}" --learning-rate $rate
convert t2r --feature-map t2r "${maps[@]}"
run t2r-scratch-fifth $fifth "${model[@]}" --learning-rate $rate --feature-map t2r "${maps[@]}"
convert elu --feature-map elu
convert rfa --feature-map rfa "${maps[@]}"
convert t2r-last-softmax --feature-map t2r "${maps[@]}" --keep-softmax 2
run t2r-scratch "$tokens" "${model[@]}" --learning-rate $rate --feature-map t2r "${maps[@]}"
"$t2r" report teacher t2r-converted t2r-last-softmax-converted elu-converted rfa-converted \
  t2r-scratch-fifth t2r-scratch --out report --decoding-lengths 16,64,256
