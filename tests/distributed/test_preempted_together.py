"""Several processes of which one is asked to stop: all stop, and go on to the same adapter."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from rank_jobs import Job, Outcome, run_jobs
from tiny_runs import REPOSITORY, TWENTY_STEPS, script_environment

# One that has the whole state on every rank, and one that has parts.
_STRATEGIES = ("ddp", "deepspeed_zero2")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """What two processes left; their resume points come from being asked alone."""
    jobs = []
    for strategy in _STRATEGIES:
        overrides = (
            *(*TWENTY_STEPS, f"strategy={strategy}", "trainer.checkpoint_every_n_steps=1000"),
            *("trainer.accumulate_grad_batches=2", "trainer.max_steps=8"),
        )
        jobs += [
            Job(f"{strategy} whole", overrides),
            Job(f"{strategy} 1", overrides, folder=strategy, asked_at=(5, 1, "SIGTERM")),
            Job(f"{strategy} 2", overrides, folder=strategy, asked_at=(4, 0, "SIGUSR1")),
            Job(f"{strategy} rest", overrides, folder=strategy),
        ]
    return run_jobs(tmp_path_factory, "preempted", jobs)


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_two_processes_go_on_to_the_same_adapter(
    strategy: str, together: Mapping[str, Outcome]
) -> None:
    run = together[f"{strategy} rest"].run
    steps = sorted(path.name for path in (run / "checkpoints").iterdir())
    # The third step, and the second one from there.
    assert steps == ["step-000003.ckpt", "step-000005.ckpt"]
    found = together[f"{strategy} rest"].weights
    for name, expected in together[f"{strategy} whole"].weights.items():
        assert torch.equal(found[name], expected)


def test_the_process_that_started_them_passes_it_on(tmp_path: Path) -> None:
    arguments = [
        *("debug=tiny", "evaluation=none", "strategy=ddp", "trainer.devices=2", "run_name=run"),
        *("trainer.max_steps=100000", "trainer.max_epochs=100000"),
        *("trainer.checkpoint_every_n_steps=100000", f"paths.output_dir={tmp_path}"),
    ]
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "step 3/" in line:
            break
    for _ in range(2):
        process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 75, output
    [checkpoint] = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(checkpoint.stem.removeprefix("step-"))
    assert f"step {step} of 100000 is done and saved" in output
    last = output.splitlines()[-1]
    command = shlex.join(["python", "train.py", *arguments])
    assert last == f"error: stopped by SIGUSR1; this goes on: {command}"
