#!/usr/bin/env bash
# stories260K, a pretrained Llama of 260,032 parameters (llama2.c format), as an RNN: what each
# ingredient of the conversion gives at the same number of tokens, and how far the best ones come.
# Every run can be interrupted and goes on when this is run again; results.tsv gets a line as each
# ends.
#   bash experiments/stories260k/run.sh FOLDER_WITH_STORIES260K TINYSTORIES_TEXT [OUT]
# The folder holds stories260K.bin and tok512.bin; the text (plain or .gz) holds TinyStories, parted
# by lines "<|endoftext|>". Its first 120 stories of more than 100 characters, cut to 512 tokens, are
# held out: the sample on which the published model has 1.2999 nats a token.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
weights=$(realpath "$1") text=$(realpath "$2") out=${3:-stories260k-run}
t2r=${T2R:-${T2R_BUILD:-$here/../../build}/bin/t2r}
[ -x "$t2r" ] || { echo "$t2r is missing: build first (cmake --build build)" >&2; exit 1; }
results=${RESULTS:-$here/results.tsv}

# ---- the experiment -------------------------------------------------------------------------------
short=${SHORT:-500000}         # tokens of the rows that are compared with each other
transfer=$((short / 5))        # of these, where attention transfer comes first
long=${LONG:-10000000}         # tokens of the recipes that are taken as far as they come
training=(--sequence-length 512 --batch-size 1 --learning-rate 2e-3 --weight-decay 0 --seed 1
  --threads 1 --validation-split none --checkpoint-every 1000 --keep 1)
# ---------------------------------------------------------------------------------------------------

mkdir -p "$out" && cd "$out"
[ -e teacher/config.json ] || "$t2r" import --from "$weights/stories260K.bin" \
  --tokenizer "$weights/tok512.bin" --out teacher
[ -e train.txt ] || python3 - "$text" <<'PYTHON'
import gzip, sys
opener = gzip.open if sys.argv[1].endswith(".gz") else open
stories = [s.strip() for s in opener(sys.argv[1], "rt", encoding="utf-8").read().split("<|endoftext|>")]
stories = [s for s in stories if len(s) > 100]
for name, part in (("valid", stories[:120]), ("train", stories[120:])):
    with open(name + ".txt", "w", encoding="utf-8") as file:
        file.write("\n\n".join(part) + "\n")
PYTHON
[ -e data/dataset.json ] || "$t2r" prepare --text train.txt --valid valid.txt --tokenizer teacher \
  --add-eos false --out data
# The text beside as many tokens that the teacher drew.
[ -e mixed/dataset.json ] || "$t2r" generate --model teacher --dataset mixed --data data \
  --texts 1800 --max-tokens 512 --temperature 1 --batch 64 --seed 1
[ -e held-out ] || python3 "$here/held_out.py" "$weights/tok512.bin" valid.txt >held-out

[ -e "$results" ] ||
  printf 'row\tattention\ttokens\tloss\tperplexity\tabove the teacher\tminutes\n' >"$results"

# row NAME MODEL TOKENS MINUTES: its line of the table, once.
row() {
  grep -q "^$1	" "$results" && return
  [ -e teacher.json ] || "$t2r" evaluate --model teacher --token-ids held-out --json >teacher.json
  "$t2r" evaluate --model "$2" --token-ids held-out --json >row.json
  python3 - "$@" >>"$results" <<'PYTHON'
import json, math, os, sys
name, model, tokens, minutes = sys.argv[1:]
load = lambda path: json.load(open(path))
loss, teacher = load("row.json")["loss"], load("teacher.json")["loss"]
folder = model if os.path.exists(model + "/config.json") else model + "/model"
t2r = load(folder + "/config.json").get("t2r")
attention = "softmax"
if t2r:
    kept = load("teacher/config.json")["num_hidden_layers"] - len(t2r["layers"])
    attention = " ".join([t2r["feature_map"], f'k={t2r["feature_size"]}'] +
                         ([f'decay {t2r["decay"]}'] if t2r["decay"] != "none" else []) +
                         ([f'window {t2r["window"]}'] if t2r.get("window") else []) +
                         ([f"{kept} softmax layers"] if kept else []))
print(name, attention, tokens, f"{loss:.4f}", f"{math.exp(loss):.3f}",
      f"{100 * (math.exp(loss - teacher) - 1):+.1f} %", minutes, sep="\t")
PYTHON
}
minutes() { # RUN...
  python3 -c 'import json, sys
seconds = sum(json.load(open(run + "/summary.json"))["rank_seconds"] for run in sys.argv[1:])
print(round(seconds / 60, 1))' "$@"
}
# swap NAME OPTIONS...
swap() {
  local name=$1
  shift
  [ -e "swapped-$name/config.json" ] ||
    "$t2r" convert --model teacher --out "swapped-$name" --seed 1 "$@"
}
# learn ROW SWAPPED TOKENS OPTIONS...: trains swapped-SWAPPED.
learn() {
  local name=$1 start=swapped-$2 budget=$3
  shift 3
  [ -e "$name/summary.json" ] ||
    "$t2r" train --data data --model "$start" --out "$name" --tokens "$budget" "${training[@]}" "$@"
  row "$name" "$name" "$budget" "$(minutes "$name")"
}
# align ROW SWAPPED: attention transfer, then the teacher, together as long as the others.
align() {
  local name=$1 start=swapped-$2
  [ -e "$name-transfer/summary.json" ] ||
    "$t2r" train --data data --model "$start" --out "$name-transfer" --tokens $transfer \
      --stage transfer "${training[@]}"
  row "$name-only" "$name-transfer" $transfer "$(minutes "$name-transfer")"
  [ -e "$name/summary.json" ] ||
    "$t2r" train --data data --model "$name-transfer" --out "$name" --tokens $((short - transfer)) \
      --teacher teacher "${training[@]}"
  row "$name" "$name" $short "$(minutes "$name-transfer" "$name")"
}
teacher=(--teacher teacher)

swap t2r --feature-map t2r --feature-size 32
swap t2r-decay --feature-map t2r --feature-size 32 --decay learned
swap hedgehog --feature-map hedgehog --feature-size 32
swap hedgehog-decay --feature-map hedgehog --feature-size 32 --decay learned
swap t2r-window --feature-map t2r --feature-size 32 --window 16
swap hedgehog-window --feature-map hedgehog --feature-size 32 --window 16
swap best --feature-map t2r --feature-size 64 --decay learned
swap plain --feature-map t2r --feature-size 64
swap window --feature-map hedgehog --feature-size 64 --window 16
swap 75 --feature-map t2r --feature-size 32 --decay learned --keep-softmax every-4th
swap 50 --feature-map t2r --feature-size 32 --decay learned --keep-softmax every-2nd

short_rows() {
  row teacher teacher - -
  row swapped swapped-t2r 0 0
  learn t2r-text t2r $short
  learn t2r-kl t2r $short "${teacher[@]}"
  align t2r-transfer t2r
  learn decay-text t2r-decay $short
  learn decay-kl t2r-decay $short "${teacher[@]}"
  learn decay-kl-half t2r-decay $short "${teacher[@]}" --teacher-share 0.5
  learn decay-kl-drawn t2r-decay $short "${teacher[@]}" --data mixed
  align decay-transfer t2r-decay
  learn hedgehog-kl hedgehog $short "${teacher[@]}"
  align hedgehog-transfer hedgehog
  learn hedgehog-decay-kl hedgehog-decay $short "${teacher[@]}"
  learn window-kl t2r-window $short "${teacher[@]}"
  learn hedgehog-window-kl hedgehog-window $short "${teacher[@]}"
  align hedgehog-window-transfer hedgehog-window
  # Without its window the linear part of the same weights stands alone.
  [ -e window-off/config.json ] || "$t2r" convert --model hedgehog-window-kl --out window-off \
    --feature-map hedgehog --feature-size 32
  row hedgehog-window-kl-off window-off $short -
  learn 75 75 $short "${teacher[@]}"
  learn 50 50 $short "${teacher[@]}"
}
scratch_rows() {
  # The same model from nothing, with four times the tokens.
  [ -e scratch/summary.json ] || "$t2r" train --data data --out scratch --tokens $((4 * short)) \
    "${training[@]}" --family llama --layers 5 --hidden-size 64 --heads 8 --key-value-heads 4 \
    --ffn-size 172 --tied true --feature-map t2r --feature-size 32 --decay learned
  row scratch-4x scratch $((4 * short)) "$(minutes scratch)"
}
long_rows() { # the recipes taken as far as they come
  local data=()
  [ "$1" != window ] || data=(--data mixed)
  learn "long-$1" "$1" "$long" "${teacher[@]}" "${data[@]}"
}

for part in ${PARTS:-short scratch plain best window}; do
  case $part in
    short) short_rows ;;
    scratch) scratch_rows ;;
    *) long_rows "$part" ;;
  esac
done
