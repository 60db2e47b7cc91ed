#!/usr/bin/env bash
# WikiText-2, BPE: a softmax teacher; T2R, ELU and RFA converted from it on a sixth of its tokens; the
# same from scratch on that sixth, and T2R on the teacher's tokens; T2R with every 4th layer kept
# softmax; T2R with a learned decay of the state. Every run can be interrupted and goes on when this is run again;
# results-NM.tsv (N million tokens for the teacher) gets a line as each ends.
#   bash experiments/wikitext2/run.sh FOLDER_WITH_WIKITEXT2 [OUT]
# FOLDER_WITH_WIKITEXT2 holds wiki.{train,valid,test}.tokens, plain or .gz.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
text=$1 out=${2:-wikitext2-run}
build=${T2R_BUILD:-$here/../../build}
t2r=$build/bin/t2r
[ -x "$t2r" ] || { echo "$t2r is missing: build first (cmake --build build)" >&2; exit 1; }

# ---- the experiment -------------------------------------------------------------------------------
tokens=${TOKENS:-6000000}      # of the teacher, and of T2R from scratch in full
sixth=$((tokens / 6))
vocabulary=4096
precision=${PRECISION:-bf16}
model=(--family gpt2 --positions sinusoidal --layers 8 --hidden-size 256 --heads 8 --dropout 0.1)
training=(--sequence-length 256 --packing contiguous --seed 1 --eval-every 1000
  --checkpoint-every 500 --keep 1 --precision "$precision")
scratch=("${model[@]}" --batch-size 8 --micro-batch 8 --learning-rate 1.5e-3)
# Small batches: the new attention needs many updates more than it needs quiet gradients.
finetuning=(--batch-size 4 --micro-batch 4 --learning-rate 1e-3 --dropout 0)
# ---------------------------------------------------------------------------------------------------

mkdir -p "$out" && cd "$out"
mkdir -p text
for split in train valid test; do
  [ -e text/$split ] || {
    if [ -e "$text/wiki.$split.tokens" ]; then cp "$text/wiki.$split.tokens" text/$split.part
    elif [ -e "$text/wiki.$split.tokens.gz" ]; then gzip -dc "$text/wiki.$split.tokens.gz" >text/$split.part
    else echo "$text holds neither wiki.$split.tokens nor wiki.$split.tokens.gz" >&2; exit 1; fi
    mv text/$split.part text/$split
  }
done
[ -e data/dataset.json ] || "$t2r" prepare --text text/train --valid text/valid --test text/test \
  --vocab-size $vocabulary --tokenizer-type bpe --document-split file --count-line-ends true \
  --out data

results=$here/results-$((tokens / 1000000))M.tsv
[ -n "${RESULTS:-}" ] && results=$RESULTS
[ -e "$results" ] || printf 'run\tattention\tstart\ttokens\tFLOPs\tminutes\tvalid loss\tvalid ppl/token\tvalid ppl/word\ttest ppl/token\ttest ppl/word\n' >"$results"

# finish RUN: its line of the table, once.
finish() {
  grep -q "^$1	" "$results" && return
  local split
  for split in valid test; do
    "$t2r" evaluate --model "$1" --data data --split $split --sequence-length 256 \
      --packing contiguous --precision "$precision" --json >"$1/evaluation-$split.json"
  done
  python3 - "$1" >>"$results" <<'PYTHON'
import json, sys
run = sys.argv[1]
load = lambda name: json.load(open(f"{run}/{name}.json"))
s, valid, test = load("summary"), load("evaluation-valid"), load("evaluation-test")
print(run, s["attention"], s["start"], s["tokens"], f'{s["flops"]:.3g}',
      f'{s["rank_seconds"] / 60:.1f}', f'{valid["loss"]:.4f}',
      *(f"{e[k]:.2f}" for e in (valid, test) for k in ("perplexity_per_token", "perplexity_per_word")),
      sep="\t")
PYTHON
}

run() { # RUN TOKENS OPTIONS...
  local name=$1 budget=$2
  shift 2
  [ -e "$name/summary.json" ] ||
    "$t2r" train --data data --out "$name" --tokens "$budget" "${training[@]}" "$@"
  finish "$name"
}
convert() { # NAME OPTIONS...: the swap, then finetuning on a sixth of the teacher's tokens
  local name=$1
  shift
  [ -e "swapped/$name/config.json" ] ||
    "$t2r" convert --model teacher --out "swapped/$name" --seed 1 "$@"
  run "$name-converted" $sixth --model "swapped/$name" "${finetuning[@]}"
}

run teacher "$tokens" "${scratch[@]}"
convert t2r --feature-map t2r --feature-size 32
run t2r-scratch-sixth $sixth "${scratch[@]}" --feature-map t2r --feature-size 32
convert t2r-decay --feature-map t2r --feature-size 32 --decay learned
convert t2r-every-4th --feature-map t2r --feature-size 32 --keep-softmax every-4th
convert elu --feature-map elu
convert rfa --feature-map rfa --feature-size 32
run t2r-decay-scratch-sixth $sixth "${scratch[@]}" --feature-map t2r --feature-size 32 --decay learned
run elu-scratch-sixth $sixth "${scratch[@]}" --feature-map elu
run rfa-scratch-sixth $sixth "${scratch[@]}" --feature-map rfa --feature-size 32
run t2r-scratch "$tokens" "${scratch[@]}" --feature-map t2r --feature-size 32
"$t2r" report teacher t2r-converted t2r-decay-converted t2r-every-4th-converted elu-converted \
  rfa-converted t2r-scratch-sixth t2r-decay-scratch-sixth elu-scratch-sixth rfa-scratch-sixth \
  t2r-scratch --out report
