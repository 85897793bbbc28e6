#!/bin/bash
# One run on GPU nodes under SLURM.
#
#   sbatch launch/clusters/slurm.sh --config=gato_1_2b:/shared/data --out /shared/runs/1_2b --config.mesh.fsdp=8
#
# Everything after the script's name goes to `gato train`. Data and run directory lie on a file system that all nodes
# see. The same line again goes on from the newest checkpoint; with `sbatch --dependency=singleton` several of them
# queue up behind each other until all steps are done.
#
#SBATCH --job-name=gato
#SBATCH --nodes=2
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# One process a GPU, as JAX expects under SLURM; on a node each takes the GPU with its own number ...
#SBATCH --ntasks-per-node=8
# ... so that all GPUs of the node are given to all its processes (not --gpus-per-task, which hides the others).
#SBATCH --gres=gpu:8
# For the loader's threads (config.loader_threads, loader_workers).
#SBATCH --cpus-per-task=8
# SIGTERM two minutes before the time is up: gato ends its step, saves and stops.
#SBATCH --signal=TERM@120
# A job that lost a node may start again: it resumes.
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

# Without it, a node whose driver or CUDA plugin is broken would train on its processor without saying so.
export JAX_PLATFORMS=cuda,cpu
# JAX takes 75 % of a GPU's memory when it starts; these processes have a GPU each to themselves. What stays free is for
# what allocates beside JAX: NCCL, cuDNN, the driver.
export XLA_CLIENT_MEM_FRACTION=0.9
# Off by default on GPUs: lets XLA start the gathering of the next layer's parameters (fsdp) and the reduction of the
# last layer's gradients while the matrix units are busy. NVIDIA's JAX images set this one flag too.
export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true ${XLA_FLAGS:-}"

# --kill-on-bad-exit: one process that failed ends the others, which would wait for it.
# --cpus-per-task: since Slurm 22.05 srun does not take it over from sbatch, and a process would have one core.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" gato train "$@"
