#!/usr/bin/env bash
# Starts t2r on N ranks of this machine: bash launch/mpirun.sh N train --data ... --out ...
# More hosts: HOSTS=a:2,b:2 bash launch/mpirun.sh 4 train ...  (t2r and the data at the same paths)
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: [HOSTS=a:2,b:2] mpirun.sh RANKS COMMAND [options]" >&2; exit 2; }
ranks=$1
shift
t2r=${T2R:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/bin/t2r}
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Unbound: mpirun would give each of two ranks one core, and a rank's threads would share it.
mpirun -np "$ranks" ${HOSTS:+--host "$HOSTS"} --bind-to none --oversubscribe "$t2r" "$@" <&0 &
job=$!
# At a SIGTERM mpirun would kill its ranks within two seconds, and to grant them more also delays
# the end of a job of which one rank has died. A SIGUSR1 it hands on, and leaves them their time.
stopping=
trap 'stopping=1; kill -USR1 "$job" 2>/dev/null || true' TERM
status=0
wait "$job" || status=$?
while [ -n "$stopping" ]; do  # that wait was cut short
  stopping=
  status=0
  wait "$job" || status=$?
done
exit "$status"
