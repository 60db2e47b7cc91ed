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

test_packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins libpmix2 iproute2 util-linux hostname)

missing_of() {
  local package
  for package; do
    [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = "install ok installed" ] ||
      printf '%s ' "$package"
  done
}
read -ra missing <<<"$(missing_of "${packages[@]}")"
missing_for_tests=()
if [ "${1:-}" = --with-tests ]; then
  read -ra missing_for_tests <<<"$(missing_of "${test_packages[@]}")"
elif [ $# -gt 0 ]; then
  echo "install-dependencies: unknown option $1: --with-tests" >&2
  exit 2
fi
[ $((${#missing[@]} + ${#missing_for_tests[@]})) -gt 0 ] || exit 0

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
[ ${#missing_for_tests[@]} = 0 ] || install "${missing_for_tests[@]}" ||
  echo "install-dependencies: not to be had, their tests are skipped: ${missing_for_tests[*]}" >&2
