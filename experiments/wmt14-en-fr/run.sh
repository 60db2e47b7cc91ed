#!/usr/bin/env bash
# WMT14, English to French, transformer-big: a softmax translator; T2R, ELU and RFA converted from
# it; T2R with every 4th layer kept softmax; T2R from scratch on the conversion's updates and on the
# teacher's. Every run can be interrupted and goes on when this is run again; OUT/results.tsv gets a
# line as each ends.
#   bash experiments/wmt14-en-fr/run.sh [--scale full] OUT
#   bash experiments/wmt14-en-fr/run.sh --scale tiny FOLDER_WITH_WMT [OUT]
# full   downloads the archives into OUT/archives (or T2R_ARCHIVES); work for a cluster
# tiny   runs the whole script in a minute, on texts in FOLDER_WITH_WMT: train/nc_5k.en-fr.* and
#        en-fr/newstest201{3,4}.*, plain or .gz; its figures mean nothing
# RESULTS= names another table; T2R_LAUNCH=, THREADS= and T2R_BUILD= say how and what to start (see
# ../translation_rows.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=experiments/translation_rows.sh
source "$here/../translation_rows.sh"
# shellcheck source=experiments/wmt_data.sh
source "$here/../wmt_data.sh"
wmt_arguments "$@"

# ---- the experiment: "reported" is the paper's, "assumed" is ours where the paper's is not known -
vocabulary=(--joint-vocabulary true --vocab-size 40000) # reported
cleaning=(--max-length 250 --max-ratio 1.5)             # assumed
steps=60000                 # reported: from scratch
conversion_steps=40000      # reported
precision=bf16              # assumed
average=5                   # reported
searching=(
  --beam 5                  # reported
  --length-penalty 0.6      # reported
  --max-length-a 1.2 --max-length-b 10 # assumed
)
model=(
  --encoder-layers 6 --layers 6        # reported
  --hidden-size 1024 --heads 16        # reported
  --ffn-size 4096                      # reported
  --pre-norm false                     # reported
  --positions sinusoidal               # assumed
  --activation relu                    # assumed
  --tied true                          # assumed
  --max-positions 1024                 # assumed
)
training=(
  --batch-tokens 460000                # reported
  --beta1 0.9 --beta2 0.98             # reported
  --schedule inverse-sqrt --warmup 4000 # reported
  --label-smoothing 0.1                # reported
  --dropout 0.1                        # assumed
  --attention-dropout 0                # assumed
  --weight-decay 0 --clip 0            # assumed
  --checkpoint-every 1000 --keep 5     # assumed
  --eval-every 1000 --seed 1           # assumed
  --micro-batch-tokens 8192            # no result depends on it
)
learning_rate=5e-4          # reported: from scratch
conversion_rate=2e-4        # reported
maps=(
  --feature-size 32                    # reported: cross attention
  --causal-feature-size 4              # reported
)
kept=every-4th              # reported: counted from the top
report=(--decoding-lengths 16 64 256)
# --------------------------------------------------------------------------------------------------

if [ "$scale" = tiny ]; then
  vocabulary=(--joint-vocabulary true --vocab-size 1000)
  steps=15 conversion_steps=10 kept=every-2nd
  model=(--encoder-layers 1 --layers 2 --hidden-size 32 --heads 2 --ffn-size 64 --pre-norm false
    --positions sinusoidal --activation relu --max-positions 1024)
  training=(--batch-tokens 1000 --schedule inverse-sqrt --warmup 4 --label-smoothing 0.1
    --dropout 0.1 --checkpoint-every 2 --keep 5 --seed 1)
  searching=(--beam 5 --length-penalty 0.6 --max-length-a 0 --max-length-b 12)
  report=(--decoding-lengths 8 --decoding-seconds 0.02)
fi
scratch=("${model[@]}" --learning-rate "$learning_rate")
finetuning=(--steps "$conversion_steps" --learning-rate "$conversion_rate")
t2r_map=(--feature-map t2r "${maps[@]}")

wmt_start
if [ "$scale" = tiny ]; then
  sources=("$(plain_or_gz "$folder/train" nc_5k.en-fr.en)")
  targets=("$(plain_or_gz "$folder/train" nc_5k.en-fr.fr)")
  valid_sources=("$(plain_or_gz "$folder/en-fr" newstest2013.en)")
  valid_targets=("$(plain_or_gz "$folder/en-fr" newstest2013.fr)")
  text=$(plain_or_gz "$folder/en-fr" newstest2014.en)
  copy_text "$text" $test_source
  text=$(plain_or_gz "$folder/en-fr" newstest2014.fr)
  copy_text "$text" $test_target
else
  wmt_fetch http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz 657632379 \
    0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7 \
    training/europarl-v7.fr-en.{en,fr}
  wmt_fetch http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz 918311367 \
    c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5 commoncrawl.fr-en.{en,fr}
  wmt_fetch http://www.statmt.org/wmt14/training-parallel-nc-v9.tgz 80418416 \
    cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485 \
    training/news-commentary-v9.fr-en.{en,fr}
  # No published checksum: the first download's is kept beside the archive.
  wmt_fetch http://www.statmt.org/wmt13/training-parallel-un.tgz - - un/undoc.2000.fr-en.{en,fr}
  wmt_fetch http://www.statmt.org/wmt10/training-giga-fren.tar - - \
    giga-fren.release2.fixed.{en,fr}.gz
  # The sets of both directions are the same texts; the archive names them by French to English.
  wmt_fetch http://data.statmt.org/wmt19/translation-task/dev.tgz 38654961 \
    7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7 \
    dev/newstest201{2,3}.{en,fr} dev/newstest2014-fren-{src.fr,ref.en}.sgm
  sources=() targets=()
  for name in training/europarl-v7 commoncrawl training/news-commentary-v9 un/undoc.2000; do
    sources+=("raw/$name.fr-en.en") targets+=("raw/$name.fr-en.fr")
  done
  sources+=(raw/giga-fren.release2.fixed.en.gz) targets+=(raw/giga-fren.release2.fixed.fr.gz)
  valid_sources=(raw/dev/newstest201{2,3}.en) valid_targets=(raw/dev/newstest201{2,3}.fr) # assumed
  wmt_sgm raw/dev/newstest2014-fren-ref.en.sgm $test_source
  wmt_sgm raw/dev/newstest2014-fren-src.fr.sgm $test_target
fi
prepare --source "${sources[@]}" --target "${targets[@]}" --valid-source "${valid_sources[@]}" \
  --valid-target "${valid_targets[@]}" "${vocabulary[@]}" "${cleaning[@]}" --shards 64 --workers 0

row teacher --steps "$steps" "${scratch[@]}"
convert_row t2r "${t2r_map[@]}"
row t2r-scratch-short --steps "$conversion_steps" "${scratch[@]}" "${t2r_map[@]}"
convert_row elu --feature-map elu
convert_row rfa --feature-map rfa "${maps[@]}"
convert_row "t2r-$kept" "${t2r_map[@]}" --keep-softmax "$kept"
row t2r-scratch --steps "$steps" "${scratch[@]}" "${t2r_map[@]}"
report_rows "${report[@]}"
