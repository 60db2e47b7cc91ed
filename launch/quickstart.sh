#!/usr/bin/env bash
# The program's main job on real text: pretrain a small transformer with softmax attention, swap the
# attention, finetune on a sixth of the tokens, train the same recurrent model from scratch on all of
# them, and compare. Everything that is done already is skipped: an interrupted run goes on.
#
#   bash launch/quickstart.sh [--out DIR] [--ranks N] [--text FILE] [--quick]
set -euo pipefail

# ---- the experiment -----------------------------------------------------------------------------
tokens=1200000          # of pretraining and of training from scratch
finetune_tokens=200000  # a sixth
batch=2                 # sequences an update: few, so that there are many updates
sequence=256
layers=4 hidden=192 heads=6 ffn=768
feature_size=32
learning_rate=1.5e-3        # from scratch, softmax and linear
finetune_learning_rate=1.5e-3
seed=1
evaluate_every=400
decoding_lengths=64,256,1024,4096
decoding_seconds=0.5
# --------------------------------------------------------------------------------------------------

source_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=quickstart-run ranks=2 text="" threads=1

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  echo "  --out DIR     where everything goes (quickstart-run)
  --ranks N     processes that train together, one thread each (2)
  --text FILE   your own text, documents separated by blank lines, instead of the LibreOffice help
  --quick       a tiny budget: the whole flow in under a minute, results mean nothing"
}

fail() {
  echo "quickstart: $*" >&2
  exit "${status:-1}"
}

while [ $# -gt 0 ]; do
  case "$1" in
    --out | --ranks | --text)
      [ $# -ge 2 ] || status=2 fail "$1 needs a value"
      case "$1" in --out) out=$2 ;; --ranks) ranks=$2 ;; --text) text=$2 ;; esac
      shift 2
      ;;
    --quick)
      tokens=49152 finetune_tokens=8192 layers=2 hidden=32 heads=2 ffn=64 batch=8 sequence=64
      evaluate_every=32 decoding_lengths=16,64 decoding_seconds=0.05
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) status=2 fail "unknown option $1: --out, --ranks, --text, --quick" ;;
  esac
done
[[ "$ranks" =~ ^[1-9][0-9]*$ ]] || status=2 fail "--ranks is '$ranks': give a number of at least 1"
[ -z "$text" ] || [ -r "$text" ] || status=2 fail "--text $text cannot be read"
[ -z "$text" ] || text=$(realpath "$text")

started=$SECONDS
say() { printf '[%3d s] %s\n' $((SECONDS - started)) "$*" >&2; }

# ---- packages and build ---------------------------------------------------------------------------
build=${T2R_BUILD:-$source_folder/build}
bash "$source_folder/launch/install-dependencies.sh"
if [ -z "${T2R_BUILD:-}" ]; then
  say "building in $build"
  mkdir -p "$build"
  cmake -S "$source_folder" -B "$build" -DCMAKE_BUILD_TYPE=Release >"$build/configure.log" 2>&1 ||
    { cat "$build/configure.log" >&2; fail "configuring failed"; }
  cmake --build "$build" --target t2r -j"$(nproc)" >&2 || fail "building failed"
fi
t2r=$build/bin/t2r
[ -x "$t2r" ] || fail "$t2r is missing"

mkdir -p "$out"
cd "$out"

# ---- stages ---------------------------------------------------------------------------------------
# stage NAME PRODUCT COMMAND...: runs the command unless it made PRODUCT before, word for word, and
# so did all stages before it. Inside a command, set -e does not act: join its steps by &&.
anew=0 # 1 once a stage ran to its end: what later stages left from another time is of no use
stage() {
  local name=$1 product=$2 record=.done/$1
  shift 2
  if [ $anew = 0 ] && [ -e "$product" ] && [ "$(cat "$record" 2>/dev/null)" = "$*" ]; then
    say "$name: done before"
    return
  fi
  say "$name"
  mkdir -p .done
  rm -f "$record"
  "$@" || { status=$? fail "$name failed (exit status $?); start the same command again to go on"; }
  echo "$*" >"$record"
  anew=1
}

# The environment that lets Open MPI start as root, more ranks than cores, threads where they like.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=true OMPI_MCA_hwloc_base_binding_policy=none
on_ranks() {
  if [ "$ranks" = 1 ]; then "$t2r" "$@"; else mpirun -np "$ranks" "$t2r" "$@"; fi
}

# Goes on with the run that an interruption left, if it was this one.
train() { # RUN OPTIONS...
  local name=$1
  shift
  [ $anew = 0 ] && [ "$(cat ".done/$name.started" 2>/dev/null)" = "$*" ] || rm -rf "$name"
  echo "$*" >".done/$name.started"
  on_ranks train --data dataset --out "$name" --sequence-length $sequence --batch-size $batch \
    --micro-batch $((batch / ranks > 0 ? batch / ranks : 1)) --threads $threads --seed $seed \
    --eval-every $evaluate_every --checkpoint-every $((2 * evaluate_every)) --keep 1 "$@"
}

convert() { # FEATURE-MAP
  "$t2r" convert --model teacher --feature-map "$1" --feature-size $feature_size --seed $seed \
    --out "converted/$1"
}

evaluate() { # RUN
  on_ranks evaluate --model "$1" --data dataset --split test --sequence-length $sequence \
    --threads $threads --json >"$1/evaluation-test.json.tmp" &&
    mv "$1/evaluation-test.json.tmp" "$1/evaluation-test.json"
}

fetch_help() {
  rm -rf package && mkdir package
  (cd package && apt-get download libreoffice-help-en-us >apt.log 2>&1) || {
    cat package/apt.log >&2
    echo "the package libreoffice-help-en-us cannot be had: give a text of your own with --text" >&2
    return 1
  }
  dpkg -x package/libreoffice-help-en-us_*.deb package &&
    python3 "$source_folder/launch/extract_libreoffice_help.py" \
      --help-folder package/usr/share/libreoffice/help/en-US/text --out text
}

extract_text() {
  python3 "$source_folder/launch/extract_libreoffice_help.py" --text "$1" --out text
}

prepare() { # TEXTS: their checksum, so that another text is another command
  "$t2r" prepare --text text/train.txt --valid text/valid.txt --test text/test.txt \
    --tokenizer bytes --shards 2 --out dataset --overwrite
}

if [ -n "$text" ]; then
  stage "splitting the text" text/train.txt extract_text "$text"
else
  stage "fetching the LibreOffice help" text/train.txt fetch_help
fi
stage "preparing the dataset" dataset/dataset.json prepare "$(cat text/*.txt | cksum)"

model=(--family gpt2 --positions sinusoidal --layers $layers --hidden-size $hidden --heads $heads
  --ffn-size $ffn --max-positions 8192)
scratch=(--tokens $tokens --learning-rate $learning_rate)
finetune=(--tokens $finetune_tokens --learning-rate $finetune_learning_rate)

stage "pretraining the teacher (softmax)" teacher/summary.json train teacher "${model[@]}" "${scratch[@]}"
for map in t2r elu rfa; do
  stage "converting to $map" converted/$map/config.json convert $map
done
stage "finetuning T2R on a sixth of the tokens" t2r-finetuned/summary.json \
  train t2r-finetuned --model converted/t2r "${finetune[@]}"
for map in elu rfa; do
  stage "finetuning $map on a sixth of the tokens" $map-finetuned/summary.json \
    train $map-finetuned --model converted/$map "${finetune[@]}"
done
stage "training T2R from scratch on all tokens" t2r-scratch/summary.json \
  train t2r-scratch "${model[@]}" --feature-map t2r --feature-size $feature_size "${scratch[@]}"

runs=(teacher t2r-finetuned t2r-scratch elu-finetuned rfa-finetuned)
for run in "${runs[@]}"; do
  stage "evaluating $run on the test split" "$run/evaluation-test.json" evaluate "$run"
done

say "report"
"$t2r" report "${runs[@]}" --baseline t2r-scratch --decoding-lengths $decoding_lengths \
  --decoding-seconds $decoding_seconds --out report
say "done: open $PWD/report/report.html"
