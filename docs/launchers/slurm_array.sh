#!/bin/bash
# A sweep of seeds under Slurm, each a run of its own on one machine:
#
#   sbatch docs/launchers/slurm_array.sh
#
# A task that is stopped or killed goes on where it stood when it is queued again.
#SBATCH --job-name=keras-tilt-seeds
#SBATCH --array=0-4
#SBATCH --gpus=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
exec keras-tilt train --data-dir "$DATA" --out "$RUN/seed$SLURM_ARRAY_TASK_ID" \
  --seed "$SLURM_ARRAY_TASK_ID" "$@"
