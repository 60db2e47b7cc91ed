#!/usr/bin/env bash
# test_kills.py with one seed after the other: how many kills a run survived bit for bit. Results:
# soak_kills.md.   T2R=build/bin/t2r bash tests/launch/soak_kills.sh [SEEDS] [FIRST_SEED]
set -euo pipefail
seeds=${1:-8} first=${2:-1}
export T2R_KILLS=${T2R_KILLS:-5} T2R_STEPS=${T2R_STEPS:-600} PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
total=0 failed=0
echo "| seed | killed | starts | equal to the undisturbed run |"
echo "|---|---|---|---|"
for seed in $(seq "$first" $((first + seeds - 1))); do
  equal=yes
  said=$(T2R_SEED=$seed python3 "$here/test_kills.py" 2>&1) || equal=no
  [ $equal = yes ] || { failed=$((failed + 1)); printf '%s\n' "$said" >&2; }
  killed=$(sed -nE 's/.*\(seed [0-9]+: killed (.*); [0-9]+ starts\).*/\1/p' <<<"$said")
  starts=$(sed -nE 's/.*; ([0-9]+) starts\).*/\1/p' <<<"$said")
  total=$((total + $(grep -o 'rank [0-9]* after' <<<"$killed" | wc -l)))
  echo "| $seed | $killed | $starts | $equal |"
done
echo
echo "$total kills in $seeds runs of $T2R_STEPS updates, dp 2 x tp 2; $failed runs differ."
[ $failed = 0 ]
