#!/usr/bin/env bash
# Installs what t2r builds with: Debian/Ubuntu packages only. Does nothing when all are there.
# --with-tests: also what only tests need, a Slurm and tools for hosts in namespaces. They are tried:
# without them their tests are skipped.
set -euo pipefail

packages=(
  g++ cmake make pkg-config git ca-certificates python3
  openmpi-bin libopenmpi-dev libhdf5-dev libdnnl-dev
  libcli11-dev libfmt-dev nlohmann-json3-dev libxxhash-dev libpcre2-dev libutf8proc-dev libssl-dev zlib1g-dev
  libsentencepiece-dev sentencepiece
  libgtest-dev libbenchmark-dev
)

test_packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins libpmix2 iproute2 util-linux hostname clang)

# The package of the installed clang with libFuzzer and the sanitizers, where it cannot link with them.
clang_runtime() {
  command -v clang >/dev/null || return 0
  echo 'int LLVMFuzzerTestOneInput(const char* d, unsigned long s) { return d && s ? 0 : 0; }' |
    clang -x c -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null ||
    echo "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
}

missing_of() {
  local package
  for package; do
    [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = "install ok installed" ] ||
      printf '%s ' "$package"
  done
}
read -ra missing <<<"$(missing_of "${packages[@]}")"
missing_for_tests=()
runtime=
if [ "${1:-}" = --with-tests ]; then
  read -ra missing_for_tests <<<"$(missing_of "${test_packages[@]}")"
  runtime=$(clang_runtime)
elif [ $# -gt 0 ]; then
  echo "install-dependencies: unknown option $1: --with-tests" >&2
  exit 2
fi
[ -n "${missing[*]}${missing_for_tests[*]}$runtime" ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || {
    echo "install-dependencies: these packages are missing and there is neither root nor sudo: ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
install() {
  echo "installing $# packages: $*" >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
[ ${#missing[@]} = 0 ] || install "${missing[@]}"
[ "${1:-}" = --with-tests ] || exit 0
try_to_install() {
  install "$@" || echo "install-dependencies: not to be had, their tests are skipped: $*" >&2
}
[ ${#missing_for_tests[@]} = 0 ] || try_to_install "${missing_for_tests[@]}"
runtime=$(clang_runtime)
[ -z "$runtime" ] || try_to_install "$runtime"
