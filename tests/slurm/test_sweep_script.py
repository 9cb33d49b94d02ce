"""What `slurm/sweep.sbatch` makes of its words, without a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from documents import documented
from tiny_runs import REPOSITORY, script_environment

COMMAND = "sbatch --array=0-1 slurm/sweep.sbatch sweep_name=two-seeds model=opt-125m seed=1,2"


def _run(folder: Path, *words: str, number: int, jobs: int = 4) -> subprocess.CompletedProcess[str]:
    """Runs the script as a job of an array, with an `srun` that prints what it was given."""
    srun = folder / "srun"
    srun.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    srun.chmod(0o755)
    values = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(jobs)}
    values |= {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": str(jobs - 1)}
    values |= {"SLURM_CPUS_PER_TASK": "1", "VIRTUAL_ENV": "x", "PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "slurm/sweep.sbatch", *words],
        cwd=REPOSITORY,
        env=script_environment(**values),
        capture_output=True,
        text=True,
        check=False,
    )


def _given(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    return words[words.index("train.py") + 1 :]


def test_each_job_has_a_combination_and_all_have_the_sweep(tmp_path: Path) -> None:
    words = documented(COMMAND)[3:]
    assert [_given(_run(tmp_path, *words, number=n, jobs=2)) for n in (0, 1)] == [
        ["swept_keys=[seed]", "sweep_name=two-seeds", "model=opt-125m", f"seed={seed}"]
        for seed in (1, 2)
    ]
    grid = ("strategy=ddp,fsdp2", "logger.tags=[a,b]", "+trainer.devices=1,2")
    given = [_given(_run(tmp_path, *grid, number=number)) for number in range(4)]
    assert {words[0] for words in given} == {"swept_keys=[strategy,trainer.devices]"}
    assert len({tuple(words) for words in given}) == 4
    assert all(words[2] == grid[1] for words in given)


@pytest.mark.parametrize(("number", "jobs"), [(0, 3), (2, 3), (4, 5)])
def test_an_array_of_another_size_than_the_grid(number: int, jobs: int, tmp_path: Path) -> None:
    done = _run(tmp_path, "model=a,b", "seed=1,2", number=number, jobs=jobs)
    assert done.returncode == 2
    assert done.stdout == ""
    found = f"--array=0-{jobs - 1} does not fit the 4 combinations"
    assert done.stderr == f"error: {found}; use --array=0-3\n"
