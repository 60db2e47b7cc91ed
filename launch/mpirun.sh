#!/usr/bin/env bash
# Starts t2r on N ranks, of this machine or of several hosts:
#
#   bash launch/mpirun.sh [--hosts a:2,b:2 | --hostfile FILE] RANKS train --data ... --out ...
#
# FILE has a line a host: "a slots=2". t2r, the data and the run folder lie at the same paths on all
# hosts, and ssh reaches them without a password. Where hosts have several networks, name the one to
# use: OMPI_MCA_btl_tcp_if_include=10.0.0.0/24 OMPI_MCA_oob_tcp_if_include=10.0.0.0/24.
set -euo pipefail

usage() {
  echo "mpirun.sh: $1
usage: mpirun.sh [--hosts a:2,b:2 | --hostfile FILE] RANKS COMMAND [options]" >&2
  exit 2
}

hosts=()
[ -z "${HOSTS:-}" ] || hosts=(--host "$HOSTS")
while [ $# -gt 0 ]; do
  case "$1" in
    --hosts | --hostfile)
      [ $# -ge 2 ] || usage "$1 needs a value"
      [ "$1" = --hosts ] || [ -r "$2" ] || usage "--hostfile $2 cannot be read"
      if [ "$1" = --hosts ]; then hosts=(--host "$2"); else hosts=(--hostfile "$2"); fi
      shift 2
      ;;
    *) break ;;
  esac
done
[ $# -ge 2 ] || usage "give the number of ranks and a command"
[[ "$1" =~ ^[1-9][0-9]*$ ]] || usage "'$1' is no number of ranks"
ranks=$1
shift
t2r=${T2R:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/bin/t2r}
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# mpirun itself would not notice for minutes that a host or its link is gone.
keepalive=(--mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 2
  --mca oob_tcp_keepalive_probes 3)

# What mpirun says of a rank or host that is lost, wrapped over lines, in one sentence of ours.
last_words() {
  local line text="" spoken="" enough="" go_on="a training goes on from its last checkpoint with the same command"
  local killed='process rank ([0-9]+) with PID [0-9]+ on node ([^ ]+) exited on signal ([0-9]+ \([^)]*\))'
  local lost='lost communication with a remote daemon.*Remote daemon: +[^ ]+ on node ([^ ]+)'
  while IFS= read -r line || [ -n "$line" ]; do
    printf '%s\n' "$line" >&2
    [[ $line != t2r:\ * ]] || spoken=1
    [ ${#text} -lt 1000 ] || text=${text: -500}
    text+=" $line"
    if [[ $text =~ $killed ]]; then
      [ -n "$spoken" ] ||
        echo "t2r: rank ${BASH_REMATCH[1]} on ${BASH_REMATCH[2]} was ended by signal ${BASH_REMATCH[3]}, and the job with it; $go_on" >&2
    elif [[ $text =~ $lost ]]; then
      [ -n "$spoken" ] ||
        echo "t2r: the host ${BASH_REMATCH[1]} does not answer any more, and the job ended; $go_on" >&2
    elif [[ $text =~ "unable to reliably start one or more daemons" ]]; then
      [ -n "$spoken" ] ||
        echo "t2r: a host could not be reached, or died, and the job ended; $go_on" >&2
    elif [[ ! $text =~ "MPI_ABORT was invoked" ]]; then
      continue
    fi
    text="" spoken=1
    # Now mpirun waits for its hosts, for a quarter of an hour where one is cut off.
    [ -n "$enough" ] || { (sleep 10 && kill -KILL "$(cat "$state/mpirun")") </dev/null &>/dev/null & }
    enough=1
  done
}
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT # also calls the delayed kill off
exec {errors}> >(last_words)
listener=$!

# Unbound: mpirun would give each of two ranks one core, and a rank's threads would share it.
mpirun -np "$ranks" ${hosts[@]+"${hosts[@]}"} "${keepalive[@]}" --bind-to none --oversubscribe \
  "$t2r" "$@" <&0 2>&"$errors" {errors}>&- &
job=$!
echo $job >"$state/mpirun"
exec {errors}>&-
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
# The listener ends with the last writer; a daemon that lives on somewhere must not hold this up.
for _ in $(seq 20); do
  kill -0 "$listener" 2>/dev/null || break
  sleep 0.1
done
exit "$status"
