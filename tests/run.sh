#!/usr/bin/env bash
# The one test command: installs what is missing, builds, runs every test, and says how many passed,
# failed and were skipped.   bash tests/run.sh [ctest options, such as -R model]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Root gets what the tests on several hosts need too; others see them skipped.
if [ "$(id -u)" = 0 ]; then
  bash launch/install-dependencies.sh --with-tests
else
  bash launch/install-dependencies.sh
fi
build=build
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DT2R_POISON=OFF
cmake --build "$build" -j"$(nproc)"

# The environment that lets Open MPI start as root, more ranks than cores, threads where they like.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=true OMPI_MCA_hwloc_base_binding_policy=none
log=$build/tests.log
status=0
ctest --test-dir "$build" -j2 --output-on-failure --timeout 600 "$@" 2>&1 | tee "$log" || status=$?

# Every reader of files is fuzzed for a moment, unless some tests only were asked for.
fuzz_skipped=0
if [ $# = 0 ]; then
  fuzz_status=0
  bash tests/fuzz/run.sh 15 || fuzz_status=$?
  [ "$fuzz_status" != 77 ] || fuzz_skipped=1
  [ "$fuzz_status" = 0 ] || [ "$fuzz_status" = 77 ] || status=$fuzz_status
fi

passed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$log" || true)
skipped=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*Skipped' "$log" || true)
total=$(grep -cE '^ *[0-9]+/[0-9]+ Test ' "$log" || true)
echo "$passed passed, $((total - passed - skipped)) failed, $skipped skipped"
[ "$fuzz_skipped" = 0 ] || echo "fuzzing was skipped: see above"
[ "$total" -gt 0 ] || { echo "tests/run.sh: no test ran" >&2; exit 1; }
exit "$status"
