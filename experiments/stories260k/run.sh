#!/usr/bin/env bash
# stories260K, a pretrained Llama of 260,032 parameters (llama2.c format), as an RNN: what each
# ingredient of the conversion gives at the same number of tokens. Every run can be interrupted and
# goes on when this is run again; results.tsv gets a line as each ends.
#   bash experiments/stories260k/run.sh FOLDER_WITH_STORIES260K TINYSTORIES_TEXT [OUT]
# The folder holds stories260K.bin and tok512.bin; the text (plain or .gz) holds TinyStories, parted
# by lines "<|endoftext|>". The first 120 stories of more than 100 characters, cut to 512 tokens, are
# held out: the sample on which the published model has 1.2999 nats a token.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
source_folder=$(realpath "$1") text=$(realpath "$2") out=${3:-stories260k-run}
t2r=${T2R:-${T2R_BUILD:-$here/../../build}/bin/t2r}
[ -x "$t2r" ] || { echo "$t2r is missing: build first (cmake --build build)" >&2; exit 1; }
results=${RESULTS:-$here/results.tsv}

# ---- the experiment -------------------------------------------------------------------------------
short=${SHORT:-2000000}  # tokens of the rows that are compared with each other
long=${LONG:-10000000}   # of the best recipes
short_updates=(--sequence-length 512 --batch-size 1 --learning-rate 2e-3)
# ---------------------------------------------------------------------------------------------------

mkdir -p "$out" && cd "$out"
[ -e teacher/config.json ] || "$t2r" import --from "$source_folder/stories260K.bin" \
  --tokenizer "$source_folder/tok512.bin" --out teacher
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
# Half of the text that is learned from is the teacher's own.
[ -e mixed/dataset.json ] || "$t2r" generate --model teacher --dataset mixed --data data \
  --texts 8000 --max-tokens 512 --temperature 1 --batch 64 --seed 1
[ -e held-out ] || python3 "$here/held_out.py" data >held-out

[ -e "$results" ] || printf 'run\tattention\ttokens\tlearning\tloss\tperplexity\tabove the teacher\tminutes\n' >"$results"
evaluate() { "$t2r" evaluate --model "$1" --token-ids held-out --json; }
[ -e teacher.json ] || evaluate teacher >teacher.json
