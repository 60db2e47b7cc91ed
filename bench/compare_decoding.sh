#!/usr/bin/env bash
# Decoding speed by length: T2R, our softmax decoder, and PyTorch with a key-value cache, in turns.
#   bash bench/compare_decoding.sh BUILD_DIR [PYTHON_WITH_TORCH]
set -euo pipefail
build=${1:?build folder}; python=${2:-/usr/bin/python3}
here=$(cd "$(dirname "$0")" && pwd)
export OMP_PROC_BIND=true OMP_PLACES=cores OMP_NUM_THREADS=2
"$build/bench/decoding_speed" --threads 2
openblas=$(ls /usr/lib/x86_64-linux-gnu/openblas-openmp/libblas.so.3 2>/dev/null || true)
env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE ${openblas:+LD_LIBRARY_PATH=$(dirname "$openblas")} \
  GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184 \
  "$python" "$here/peers/torch_decoding.py" --threads 2
