#!/bin/sh
# One worker of several: worker.sh COMMAND...
#
#   WORKER_HOSTS   every worker's host, host:port where ports differ, separated by commas
#   WORKER_PORT    of hosts without one, 2222 by default
#   index          SLURM_PROCID, JOB_COMPLETION_INDEX or WORKER_INDEX, from 0; 0 is the chief
#
# Writes TF_CONFIG, of which TensorFlow takes its cluster, and becomes the command. All
# workers need the same folders of images and runs, on a file system that they share.
set -eu
index=${SLURM_PROCID:-${JOB_COMPLETION_INDEX:-${WORKER_INDEX:?Expected the index of this worker. Received: none of SLURM_PROCID, JOB_COMPLETION_INDEX, WORKER_INDEX.}}}
: "${WORKER_HOSTS:?Expected the hosts of all workers, separated by commas. Received: none.}"
addresses=$(echo "$WORKER_HOSTS" | awk -v port="${WORKER_PORT:-2222}" -F, '{
  for (i = 1; i <= NF; i++)
    printf "%s\"%s\"", (i > 1 ? ", " : ""), ($i ~ /:[0-9]+$/ ? $i : $i ":" port)
}')
TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]}, \"task\": {\"type\": \"worker\", \"index\": $index}}"
export TF_CONFIG
exec "$@"
