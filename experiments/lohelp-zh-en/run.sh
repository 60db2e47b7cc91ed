#!/usr/bin/env bash
# LibreOffice help, Chinese to English: a softmax translator; T2R, ELU and RFA converted from it;
# T2R from scratch on the conversion's updates and on the teacher's; every 4th layer kept softmax.
# Every run can be interrupted and goes on when this is run again; OUT/results.tsv gets a line as
# each ends.
#   bash experiments/lohelp-zh-en/run.sh [OUT [FOLDER_WITH_PACKAGES]]
# The text is fetched from the Debian archive, or taken from a folder that holds the packages
# libreoffice-help-en-us_*.deb and libreoffice-help-zh-cn_*.deb already.
# TOKENS=, PRECISION=, RESULTS= change the budget, the arithmetic and the table; T2R_LAUNCH=,
# THREADS= and T2R_BUILD= say how and what to start (see ../translation_rows.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=experiments/translation_rows.sh
source "$here/../translation_rows.sh"
case ${1:-} in
  -h | --help) usage; exit 0 ;;
  -*) fail "unknown option $1: -h explains the arguments" 2 ;;
esac
[ $# -le 2 ] || fail "unknown argument $3: -h explains the arguments" 2
packages=${2:-}
if [ -n "$packages" ]; then
  [ -d "$packages" ] || fail "$packages is not a folder"
  packages=$(cd "$packages" && pwd)
fi

# ---- the experiment ------------------------------------------------------------------------------
tokens=${TOKENS:-6000000} # target tokens of the teacher
short=$((tokens * 29 / 120)) # of each conversion: with its costlier attention a quarter of the FLOPs
precision=${PRECISION:-bf16}
average=5
model=(--layers 4 --hidden-size 128 --heads 4 --ffn-size 256 --max-positions 512)
training=(--label-smoothing 0.1 --seed 1 --eval-every 500 --checkpoint-every 250 --keep 5)
long_run=(--tokens "$tokens" --batch-tokens 1000 --dropout 0.2)
# Small batches and little dropout: the new attention needs many updates.
short_run=(--tokens "$short" --batch-tokens 500 --dropout 0.1)
scratch=("${model[@]}" --learning-rate 3e-3)
finetuning=("${short_run[@]}" --learning-rate 2e-3)
maps=(--feature-size 32 --causal-feature-size 4)
t2r_map=(--feature-map t2r "${maps[@]}")
# --------------------------------------------------------------------------------------------------

start_rows "${1:-lohelp-run}" "${RESULTS:-}"
test_source=text/test.source test_target=text/test.target data=data
if [ ! -e text ]; then
  rm -rf help text.part
  mkdir help
  if [ -n "$packages" ]; then
    cp "$packages"/libreoffice-help-{en-us,zh-cn}_*.deb help
  else
    (cd help && apt-get download libreoffice-help-en-us libreoffice-help-zh-cn) >apt.log 2>&1 || {
      cat apt.log >&2
      fail "the packages cannot be had: fetch them elsewhere and name their folder (-h)"
    }
  fi
  for package in help/*.deb; do dpkg -x "$package" help; done
  python3 "$here/extract_pairs.py" --source help/usr/share/libreoffice/help/zh-CN/text \
    --target help/usr/share/libreoffice/help/en-US/text --out text.part
  mv text.part text
  rm -r help
fi
prepare --source text/train.source --target text/train.target --valid-source text/valid.source \
  --valid-target text/valid.target --joint-vocabulary false --vocab-size 6000

row teacher "${long_run[@]}" "${scratch[@]}"
convert_row t2r "${t2r_map[@]}"
row t2r-scratch-short "${short_run[@]}" "${scratch[@]}" "${t2r_map[@]}"
convert_row t2r-every-4th "${t2r_map[@]}" --keep-softmax every-4th
convert_row elu --feature-map elu
convert_row rfa --feature-map rfa "${maps[@]}"
row t2r-scratch "${long_run[@]}" "${scratch[@]}" "${t2r_map[@]}"
report_rows --decoding-lengths 16,64,256,512 --decoding-batch 16
