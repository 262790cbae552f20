#!/bin/bash
# A SLURM job array without a scheduler of Dask: sbatch --array=1-20 deploy/array.sh pairs.csv out/
# Give the same command again after a failure: what is done is not done again.
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
set -euo pipefail
exec pdd-batch "$1" -o "$2" --chunk "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --memory 7
