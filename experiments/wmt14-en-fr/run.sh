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
# shellcheck source=experiments/wmt_transformer_big.sh
source "$here/../wmt_transformer_big.sh"
wmt_arguments "$@"

# ---- the experiment; ../wmt_transformer_big.sh has what it shares with the others ---------------
vocabulary=(--joint-vocabulary true --vocab-size 40000) # reported
tiny_vocabulary=(--joint-vocabulary true --vocab-size 1000)
cleaning=(--max-length 250 --max-ratio 1.5)             # assumed
steps=60000                 # reported: from scratch
conversion_steps=40000      # reported
dropout=0.1                 # assumed
# --------------------------------------------------------------------------------------------------
wmt_settings

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

wmt_rows
