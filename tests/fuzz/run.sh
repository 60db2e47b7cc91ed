#!/usr/bin/env bash
# Fuzzes every reader for some seconds, as many at a time as there are processors. A target that stops fails the
# run and its input is kept. Exit status 77: skipped, without a clang that has libFuzzer.
#   bash tests/fuzz/run.sh [SECONDS for each target, 15] [BUILD FOLDER, build/fuzz]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-15}
build=${2:-build/fuzz}

skip() {
  echo "tests/fuzz/run.sh: skipped: $1" >&2
  exit 77
}
command -v clang++ >/dev/null || skip "clang++ is not installed"
mkdir -p "$build/crashes"
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$build/probe.cpp"
clang++ -fsanitize=fuzzer,address,undefined -o "$build/probe" "$build/probe.cpp" 2>"$build/probe.log" ||
  skip "this clang++ has no libFuzzer (Debian: libclang-rt-VERSION-dev); see $build/probe.log"

cmake -S . -B "$build" -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Release \
  -DT2R_BUILD_FUZZERS=ON -DT2R_BUILD_TESTS=OFF -DT2R_BUILD_BENCHMARKS=OFF >"$build/configure.log" 2>&1 || {
  cat "$build/configure.log" >&2
  exit 1
}
cmake --build "$build" --target fuzzers -j"$(nproc)" >"$build/build.log" 2>&1 || {
  cat "$build/build.log" >&2
  exit 1
}
"$build/fuzz/seeds" "$build/seeds"

# One target; says what it did in a line.
fuzz() {
  local target=$1 log=$build/$1.log before=$build/$1.start kept
  touch "$before"
  mkdir -p "$build/corpus/$target"
  if "$build/fuzz/fuzz_$target" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 \
    -artifact_prefix="$build/crashes/$target-" "$build/corpus/$target" "$build/seeds/$target" >"$log" 2>&1; then
    echo "fuzz.$target passed: $(sed -n 's/^Done \([0-9]* runs\).*/\1/p' "$log") in $seconds s"
    return
  fi
  tail -n 40 "$log" >&2
  kept=$(find "$build/crashes" -name "$target-*" -newer "$before" | tr '\n' ' ')
  echo "fuzz.$target FAILED: see it again with $build/fuzz/fuzz_$target ${kept:-(no input was kept: see $log)}" >&2
  return 1
}
export -f fuzz
export build seconds
printf '%s\n' tests/fuzz/*.cpp | sed 's|.*/||; s|\.cpp$||' | grep -v '^seeds$' |
  xargs -P "$(nproc)" -I{} bash -c 'fuzz {}'
