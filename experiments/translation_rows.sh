# shellcheck shell=bash disable=SC2154  # the experiment sets the variables listed below
# Sourced by the run.sh of the translation experiments: a row of a table is a model that is trained,
# translates the test set and is scored. What is done is not done again: start the same command
# again after an interruption and it goes on. SIGUSR1, SIGTERM or Ctrl-C: the training saves, and
# the script exits with 75 ("requeue me").
#
# The experiment sets, before its first row:
#   data                       dataset folder of t2r prepare
#   test_source, test_target   plain text files
#   training=(...)             options of every t2r train
#   finetuning=(...)           options of trainings that start from a swapped model, budget included
#   searching=(...)            options of t2r translate (beam 5 and length penalty 0.6 if not set)
#   precision                  of training and translation
#   average=5                  translate with the mean of the last 5 checkpoints (not set: the last)
#   compound_split=1           one more column: BLEU as En-De papers report it
# From the environment: T2R_BUILD (build folder), T2R_LAUNCH (what starts the ranks, for example
# "srun --mpi=pmix" or "mpirun -np 8 --bind-to none"; empty: one rank), THREADS (a rank; 0: its
# share of the cores), RESULTS (the table; OUT/results.tsv if not set).

rows_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
t2r=$(realpath -m "${T2R_BUILD:-$rows_folder/../build}")/bin/t2r
threads=${THREADS:-0}
read -ra launch <<<"${T2R_LAUNCH:-}"
rows=()

fail() { # SENTENCE [STATUS]
  echo "$(basename "$(dirname "$0")"): $1" >&2
  exit "${2:-1}"
}

usage() { # the comment at the head of the script
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# start_rows OUT RESULTS: checks, and everything from here on happens in OUT.
start_rows() {
  [ -x "$t2r" ] || fail "$t2r is missing: build first (cmake --build build), or set T2R_BUILD"
  [[ $threads =~ ^[0-9]+$ ]] || fail "THREADS is '$threads': give a number" 2
  results=$(realpath -m "${2:-$1/results.tsv}")
  mkdir -p "$1" "$(dirname "$results")"
  cd "$1" || exit
  if [ -z "${columns:-}" ]; then
    columns=$'run\tattention\tstart\ttokens\tFLOPs\tminutes\tvalid loss\ttest BLEU\ttest chrF'
    columns+=$'\tsentences a second\tshare'
  fi
  [ -z "${compound_split:-}" ] || columns+=$'\ttest BLEU, compounds split'
  [ -e "$results" ] || echo "$columns" >"$results"
  [ "$(head -n 1 "$results")" = "$columns" ] ||
    fail "$results has other columns: name another file with RESULTS="
}

# Long commands run in the background: only then does the shell hand a signal on at once.
step="" stop_asked=0
ask_to_stop() {
  stop_asked=1
  [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null || true
}
trap ask_to_stop USR1 TERM INT

# stoppable COMMAND...: runs it. t2r train saves on SIGUSR1; any other command dies of it and is
# repeated as a whole the next time. A stop that was asked for ends the script with 75 either way.
stoppable() {
  local status=0
  [ $stop_asked = 0 ] || exit 75
  "$@" &
  step=$!
  while :; do
    wait "$step" && status=0 || status=$?
    kill -0 "$step" 2>/dev/null || break # else a signal ended the wait before its time
  done
  step=""
  [ $stop_asked = 0 ] || exit 75
  return $status
}

prepare() { # OPTIONS...: the dataset, once
  if [ ! -e "$data/dataset.json" ]; then
    stoppable "$t2r" prepare --out "$data.part" --overwrite "$@"
    mv "$data.part" "$data"
  fi
}

plain_or_gz() { # FOLDER NAME: the path of the file
  local path
  for path in "$1/$2" "$1/$2.gz"; do
    if [ -e "$path" ]; then echo "$path"; return; fi
  done
  fail "$1 holds neither $2 nor $2.gz"
}

copy_text() { # FROM TO: unpacked
  if [ ! -e "$2" ]; then
    case $1 in *.gz) gzip -dc "$1" ;; *) cat "$1" ;; esac >"$2.part"
    mv "$2.part" "$2"
  fi
}

in_results() { cut -f 1 "$results" | grep -qx -- "$1"; }

# finish RUN: its translations of the test set, and its line of the table, once.
finish() {
  local run=$1 model=$1 start
  rows+=("$run")
  if in_results "$run"; then return; fi
  if [ "${average:-0}" != 0 ]; then
    model=$run/averaged
    if [ ! -e "$model" ]; then
      rm -rf "$model.part"
      "$t2r" average --run "$run" --last "$average" --out "$model.part"
      mv "$model.part" "$model"
    fi
  fi
  [ -n "${searching[*]:-}" ] || searching=(--beam 5 --length-penalty 0.6)
  start=$(date +%s.%N)
  stoppable "${launch[@]}" "$t2r" translate --model "$model" --input "$test_source" \
    --output "$run/test.out.part" --precision "$precision" --threads "$threads" "${searching[@]}"
  python3 -c "import sys, time; print(time.time() - float(sys.argv[1]))" "$start" >"$run/seconds"
  mv "$run/test.out.part" "$run/test.out"
  "$t2r" evaluate --hypotheses "$run/test.out" --references "$test_target" --json \
    >"$run/scores.json"
  [ -z "${compound_split:-}" ] || "$t2r" evaluate --hypotheses "$run/test.out" \
    --references "$test_target" --compound-split --json >"$run/scores-split.json"
  python3 - "$run" "${compound_split:+split}" >"$run/row" <<'PYTHON'
import json, sys
run, split = sys.argv[1:]
load = lambda path: json.load(open(path))
s, scores = load(f"{run}/summary.json"), load(f"{run}/scores.json")
cells = [run, s["attention"], s["start"], s["tokens"], f'{s["flops"]:.3g}',
         f'{s["rank_seconds"] / 60:.1f}', f'{s["loss"]:.4f}', f'{scores["bleu"]:.2f}',
         f'{scores["chrf"]:.2f}', f'{scores["sentences"] / load(f"{run}/seconds"):.1f}',
         f'{s["flops"] / load("teacher/summary.json")["flops"]:.1%}']
if split:
    cells.append(f'{load(f"{run}/scores-split.json")["bleu"]:.2f}')
print(*cells, sep="\t")
PYTHON
  cat "$run/row" >>"$results"
}

# row RUN OPTIONS...: a model trained with `training` and these options.
row() {
  local run=$1
  shift
  if [ ! -e "$run/summary.json" ]; then
    if in_results "$run"; then
      fail "$results has $run from another folder: name another file with RESULTS="
    fi
    stoppable "${launch[@]}" "$t2r" train --data "$data" --out "$run" --threads "$threads" \
      --precision "$precision" "${training[@]}" "$@"
  fi
  finish "$run"
}

# convert_row NAME OPTIONS...: the teacher's attention swapped as the options say, then finetuned.
convert_row() {
  local name=$1
  shift
  if [ ! -e "swapped/$name" ]; then
    rm -rf "swapped/$name.part"
    mkdir -p swapped
    "$t2r" convert --model teacher --out "swapped/$name.part" --seed 1 --threads "$threads" "$@"
    mv "swapped/$name.part" "swapped/$name"
  fi
  row "$name-converted" --model "swapped/$name" "${finetuning[@]}"
}

# report_rows OPTIONS...: report/report.html over all rows.
report_rows() {
  if [ ! -e report/report.json ] || [ "$results" -nt report/report.json ]; then
    "$t2r" report "${rows[@]}" --out report --threads "$threads" "$@"
  fi
}
