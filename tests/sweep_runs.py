"""Runs the documented sweeps, made tiny."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from documents import documented
from forked import Forked
from tiny_runs import REPOSITORY, run_script, script_environment

# What makes any documented sweep a matter of seconds, and leaves the choices of its file.
TINY = (
    "model=tiny",
    "data=sample",
    "evaluation=sample",
    "data.max_examples=32",
    "data.global_batch_size=8",
    "trainer.max_steps=2",
    "trainer.checkpoint_every_n_steps=1",
    "trainer.accelerator=cpu",
    "evaluation.dev_every_n_steps=2",
)


def tiny_sweep(command: str, output_dir: Path, *overrides: str) -> list[str]:
    """Returns the arguments of a documented `python train.py ...`, made tiny, in a folder.

    Args:
        command: The command, as docs/operations.md shows it.
        output_dir: Where its runs go.
        overrides: More overrides, behind all others.
    """
    python, *arguments = documented(command)
    assert (python, arguments[0]) == ("python", "train.py")
    # The embedded model's experiment would be replaced key by key.
    arguments = [a for a in arguments if not a.startswith(("experiment=", "data.path="))]
    folders = (f"paths.output_dir={output_dir}", f"paths.cache_dir={output_dir}/cache")
    return [*arguments, *TINY, *folders, *overrides]


def run_sweep(command: str, output_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs a documented sweep, made tiny, and returns what came out."""
    return run_script(*tiny_sweep(command, output_dir, *overrides))


def kill_sweep_when(
    is_due: Callable[[], bool], command: str, output_dir: Path, *overrides: str
) -> None:
    """Starts a documented sweep and kills it without a word as soon as something is there."""
    arguments = tiny_sweep(command, output_dir, *overrides)
    words = [*arguments, f"paths.results_dir={output_dir}/store"]
    process = Forked(words, script_environment(), folder=REPOSITORY)
    deadline = time.monotonic() + 300
    while not is_due():
        assert process.is_running
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60).returncode == -signal.SIGKILL
