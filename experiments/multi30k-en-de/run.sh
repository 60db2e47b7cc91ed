#!/usr/bin/env bash
# Multi30k, English to German: a softmax translator; T2R, ELU and RFA converted from it; T2R from
# scratch on the conversion's updates and on the teacher's; every 4th layer kept softmax. Every run
# can be interrupted and goes on when this is run again; OUT/results.tsv gets a line as each ends.
#   bash experiments/multi30k-en-de/run.sh FOLDER_WITH_MULTI30K [OUT]
# FOLDER_WITH_MULTI30K holds {train,val,test_2016_flickr}.{en,de}, plain or .gz (task 1, raw).
# TOKENS=, PRECISION=, RESULTS= change the budget, the arithmetic and the table; T2R_LAUNCH=,
# THREADS= and T2R_BUILD= say how and what to start (see ../translation_rows.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=experiments/translation_rows.sh
source "$here/../translation_rows.sh"
case ${1:-} in
  -h | --help) usage; exit 0 ;;
  "") usage >&2; exit 2 ;;
  -*) fail "unknown option $1: -h explains the arguments" 2 ;;
esac
[ $# -le 2 ] || fail "unknown argument $3: -h explains the arguments" 2
[ -d "$1" ] || fail "$1 is not a folder"
text=$(cd "$1" && pwd)

# ---- the experiment ------------------------------------------------------------------------------
tokens=${TOKENS:-12000000} # target tokens of the teacher (24 epochs)
short=$((tokens * 29 / 120)) # of each conversion: with its costlier attention a quarter of the FLOPs
precision=${PRECISION:-bf16}
average=5
model=(--layers 4 --hidden-size 128 --heads 4 --ffn-size 256 --max-positions 256)
training=(--label-smoothing 0.1 --seed 1 --eval-every 500 --checkpoint-every 500 --keep 5)
long_run=(--tokens "$tokens" --batch-tokens 1000 --dropout 0.3)
# Small batches and little dropout: the new attention needs many updates.
short_run=(--tokens "$short" --batch-tokens 500 --dropout 0.1)
scratch=("${model[@]}" --learning-rate 3e-3)
finetuning=("${short_run[@]}" --learning-rate 2e-3)
maps=(--feature-size 32 --causal-feature-size 4)
t2r_map=(--feature-map t2r "${maps[@]}")
# --------------------------------------------------------------------------------------------------

start_rows "${2:-multi30k-run}" "${RESULTS:-}"
train_en=$(plain_or_gz "$text" train.en)
train_de=$(plain_or_gz "$text" train.de)
val_en=$(plain_or_gz "$text" val.en)
val_de=$(plain_or_gz "$text" val.de)
test_en=$(plain_or_gz "$text" test_2016_flickr.en)
test_de=$(plain_or_gz "$text" test_2016_flickr.de)
test_source=test.en test_target=test.de data=data
copy_text "$test_en" $test_source
copy_text "$test_de" $test_target
prepare --source "$train_en" --target "$train_de" --valid-source "$val_en" \
  --valid-target "$val_de" --vocab-size 8000

row teacher "${long_run[@]}" "${scratch[@]}"
convert_row t2r "${t2r_map[@]}"
row t2r-scratch-short "${short_run[@]}" "${scratch[@]}" "${t2r_map[@]}"
convert_row t2r-every-4th "${t2r_map[@]}" --keep-softmax every-4th
convert_row elu --feature-map elu
convert_row rfa --feature-map rfa "${maps[@]}"
row t2r-scratch "${long_run[@]}" "${scratch[@]}" "${t2r_map[@]}"
report_rows --decoding-lengths 16,32,64,128,256 --decoding-batch 16
