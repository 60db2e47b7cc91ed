#!/usr/bin/env bash
# Training speed beside PyTorch: the same model (6 layers, hidden 512, 23 M parameters, 2,048 tokens
# an update), threads and machine, in turns within one run, the peer in its best set-up.
#   bash bench/compare_training.sh BUILD_DIR [ROUNDS] [PYTHON_WITH_TORCH]
# PYTHON_WITH_TORCH: an interpreter that has torch (Debian's python3-torch: /usr/bin/python3).
set -euo pipefail
build=${1:?build folder}; rounds=${2:-3}; python=${3:-/usr/bin/python3}
here=$(cd "$(dirname "$0")" && pwd)
cores=$(nproc)
export OMP_PROC_BIND=true OMP_PLACES=cores
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=true OMPI_MCA_hwloc_base_binding_policy=none

# The peer: fresh pages are its largest cost, so it gets huge pages and an allocator that keeps them;
# OpenBLAS chooses its kernels for this processor itself, and Debian's BLAS is the OpenMP build.
openblas=$(ls /usr/lib/x86_64-linux-gnu/openblas-openmp/libblas.so.3 2>/dev/null || true)
peer() {
  env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE -u OPENBLAS_NUM_THREADS \
    OMP_NUM_THREADS="$1" ${openblas:+LD_LIBRARY_PATH=$(dirname "$openblas")} \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184 \
    /usr/bin/time -f "peak memory %M KiB" "$python" "$here/peers/torch_training.py" --threads "$1" "${@:2}" 2>&1
}
ours() { OMP_NUM_THREADS="$1" "$build/bench/training_speed" --threads "$1" "${@:2}"; }

for round in $(seq "$rounds"); do
  echo "== round $round"
  peer "$cores"
  ours "$cores"
  ours "$cores" --precision bf16
  ours "$cores" --feature-size 32
  ours 1
  # Two ranks must not be bound to one core: bind none, and no thread binding either.
  env -u OMP_PROC_BIND -u OMP_PLACES mpirun -np 2 "$build/bench/training_speed" --threads 1
done
