#!/usr/bin/env bash
# enter.sh HOST COMMAND...: runs a command on a host that hosts.py made. Open MPI's remote shell.
# Not `ip netns exec`: that hides the control groups, which Slurm's daemons want to see.
first=$(cat "$T2R_HOSTS/$1.pid") || exit 255
shift
folder=$PWD
exec nsenter --target "$first" --mount --uts --net --pid --ipc -- \
  sh -c 'cd "$1" 2>/dev/null || cd /; shift; eval "$*"' sh "$folder" "$@"
