#!/usr/bin/env bash
# WMT17, Chinese to English, transformer-big: a softmax translator; T2R, ELU and RFA converted from
# it; T2R with every 4th layer kept softmax; T2R from scratch on the conversion's updates and on the
# teacher's. Every run can be interrupted and goes on when this is run again; OUT/results.tsv gets a
# line as each ends.
#   bash experiments/wmt17-zh-en/run.sh [--scale full] OUT
#   bash experiments/wmt17-zh-en/run.sh --scale tiny FOLDER_WITH_WMT [OUT]
# full   downloads 2.3 GB into OUT/archives (or T2R_ARCHIVES), and is work for a cluster
# tiny   runs the whole script in a minute, on texts in FOLDER_WITH_WMT: zh-en/newstest201{7,8,9}.*,
#        plain or .gz; 2018 trains, 2019 validates; its figures mean nothing
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
vocabulary=(--joint-vocabulary false --vocab-size 32000) # reported
tiny_vocabulary=(--joint-vocabulary false --source-vocab-size 4000 --vocab-size 1000)
cleaning=(--max-length 250 --max-ratio 3)               # assumed
steps=30000                 # reported: from scratch
conversion_steps=20000      # reported
dropout=0.3                 # assumed
# --------------------------------------------------------------------------------------------------
wmt_settings

wmt_start
if [ "$scale" = tiny ]; then
  sources=("$(plain_or_gz "$folder/zh-en" newstest2018.zh)")
  targets=("$(plain_or_gz "$folder/zh-en" newstest2018.en)")
  valid_source=$(plain_or_gz "$folder/zh-en" newstest2019.zh)
  valid_target=$(plain_or_gz "$folder/zh-en" newstest2019.en)
  text=$(plain_or_gz "$folder/zh-en" newstest2017.zh)
  copy_text "$text" $test_source
  text=$(plain_or_gz "$folder/zh-en" newstest2017.en)
  copy_text "$text" $test_target
else
  wmt_fetch http://data.statmt.org/wmt17/translation-task/training-parallel-nc-v12.tgz 168591139 \
    2b45f30ef1d550d302fd17dd3a5cbe19134ccc4c2cf50c2dae534aee600101a2 \
    training/news-commentary-v12.zh-en.{zh,en}
  wmt_fetch https://storage.googleapis.com/tfds-data/downloads/uncorpus/UNv1.0.en-zh.tar.gz \
    1386685703 6f9c6401d5f0a49b20661324570d99fb86822d82f974748a361e19b9b886dd49 \
    en-zh/UNv1.0.en-zh.{zh,en}
  cwmt=ftp://cwmt-wmt:cwmt-wmt@nlp.nju.edu.cn/parallel
  wmt_fetch $cwmt/casia2015.zip 98159063 \
    c939f1528f96c419e9bbffb9caad869616a969e7704ffac896e245a02aff59a9
  wmt_fetch $cwmt/casict2011.zip 166957775 \
    606adc0ccc5d8fc7c47f8589991286616342a1a379a571ce3038918731ae0182
  wmt_fetch $cwmt/casict2015.zip 106836569 \
    eef8e25b297c1aff12ab24719247d3588e756d7a4e2c30d4d34fcb4d05ab1050
  wmt_fetch $cwmt/datum2015.zip 100118018 \
    654afce6731485c40ce856514ab80cd2bfd836126bcaf48cdb911ebc32b021a4
  wmt_fetch $cwmt/datum2017.zip 99278067 \
    737455c139596f4abf3b1da73bc38932b3ef9534549328eff47d867e29950ed2
  wmt_fetch $cwmt/neu2017.zip 148681171 \
    9f63020b6990cde85f5387b745e3ae37f1d6a49848b90a49bae28219fb65395f
  wmt_fetch http://data.statmt.org/wmt19/translation-task/dev.tgz 38654961 \
    7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7 \
    dev/newsdev2017-zhen-{src.zh,ref.en}.sgm dev/newstest2017-zhen-{src.zh,ref.en}.sgm
  sources=(raw/training/news-commentary-v12.zh-en.zh raw/en-zh/UNv1.0.en-zh.zh)
  targets=(raw/training/news-commentary-v12.zh-en.en raw/en-zh/UNv1.0.en-zh.en)
  for english in raw/{casia2015,casict2011,casict2015,datum2015,datum2017,neu2017}/*_en.txt; do
    chinese=("${english%_en.txt}"_c[hn].txt) # one or the other
    [ -e "${chinese[0]}" ] || fail "$english has no Chinese file beside it"
    # datum2017 comes cut into words, all else and the test sets do not.
    case $english in
      */datum2017/*)
        [ -e "${chinese[0]}.joined" ] || {
          sed 's/ //g' "${chinese[0]}" >"${chinese[0]}.part"
          mv "${chinese[0]}.part" "${chinese[0]}.joined"
        }
        chinese=("${chinese[0]}.joined")
        ;;
    esac
    sources+=("${chinese[0]}") targets+=("$english")
  done
  for name in newsdev2017 newstest2017; do
    wmt_sgm raw/dev/$name-zhen-src.zh.sgm $name.zh
    wmt_sgm raw/dev/$name-zhen-ref.en.sgm $name.en
  done
  valid_source=newsdev2017.zh valid_target=newsdev2017.en
  copy_text newstest2017.zh $test_source
  copy_text newstest2017.en $test_target
fi
prepare --source "${sources[@]}" --target "${targets[@]}" --valid-source "$valid_source" \
  --valid-target "$valid_target" "${vocabulary[@]}" "${cleaning[@]}" --shards 32 --workers 0

wmt_rows
