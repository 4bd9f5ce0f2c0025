#!/usr/bin/env bash
# One node with 8 GPUs:  sbatch training/slurm.sh dpo --config training/2-dpo.yaml -o checkpoints/2-dpo
# A job that is stopped and queued again goes on from its last whole checkpoint.
#SBATCH --job-name=visprobe
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?run this with sbatch, from the clone}"
launch_file=${LAUNCH_FILE:-visprobe/training/configs/fsdp2.yaml}
exec srun accelerate launch --config_file "$launch_file" -m visprobe train "$@"
