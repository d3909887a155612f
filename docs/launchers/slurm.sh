#!/bin/bash
# Several machines under Slurm, one worker on each: sbatch docs/launchers/slurm.sh
#
# Slurm sends SIGTERM two minutes before the time is up: all workers end the same step and
# save, and the job is queued again. So it is when a node fails: the others end within a
# minute, and the new start goes on from the last save.
#SBATCH --job-name=keras-tilt
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
WORKER_HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd,)
export WORKER_HOSTS
srun --kill-on-bad-exit=0 sh docs/launchers/worker.sh \
  keras-tilt train --data-dir "$DATA" --out "$RUN" "$@"
code=$?
# 143: asked to end, and saved. 1: a worker was lost, or the command is wrong.
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
