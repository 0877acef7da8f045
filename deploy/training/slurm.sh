#!/bin/bash
# Train on two nodes with SLURM. Submit it in the project's directory, which all nodes share, with the flags of train.py:
#   sbatch deploy/training/slurm.sh --preset gpt2-squad-1gpu --output-dir runs/gpt2-squad
# docs/training.md says what happens at the time limit and when a node dies. To train on CPUs, remove --gpus-per-node.
#SBATCH --job-name=trigen
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # https://github.com/pytorch/pytorch/issues/135712
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it from sbatch
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 .venv/bin/torchrun --nnodes "$SLURM_JOB_NUM_NODES" --rdzv-backend c10d --rdzv-endpoint "$host:29500" \
    --rdzv-id "$SLURM_JOB_ID" --max-restarts 3 --shutdown-timeout 120 train.py "$@" --resume &
step=$!

# Five minutes before the time limit, the run writes a checkpoint. It goes on when SLURM starts the job again.
limit_is_near=
trap 'limit_is_near=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # signals the processes on the nodes, not this script
wait "$step"
status=$?
if [ "$limit_is_near" ]; then
    wait "$step" # the signal ended the first wait
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
