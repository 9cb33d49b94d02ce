# shellcheck shell=bash
# What differs from one cluster to the next. Sourced in the shell that calls sbatch, and once more
# by the scripts of this folder inside the job:
#
#   source slurm/site.sh
#   sbatch slurm/train.sbatch model=opt-2.7b

# What sbatch decides before a job runs it reads from the environment of the shell that calls it:
# any SBATCH_* variable of `man sbatch`. They win over the #SBATCH lines, the command line over both.
# export SBATCH_ACCOUNT=project
# export SBATCH_PARTITION=gpu

# What the processes need: modules, the virtual environment, where data and caches are.
# module load cuda/12.8
if [ -z "${VIRTUAL_ENV:-}" ] && [ -r .venv/bin/activate ]; then
    source .venv/bin/activate
fi
# export EMBEDLLM_DATA_DIR=/data/embedllm
# export EMBEDLLM_CACHE_DIR=/scratch/$USER/embedllm

# The program, in its container if there is one. A job can put itself back into the queue only where
# it finds scontrol and squeue, so mount them and what they need.
PYTHON=(python)
# PYTHON=(apptainer exec --nv embedllm.sif python)
