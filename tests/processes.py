"""Starts `python -m embedllm` in processes of their own and waits for what they do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from tiny_runs import REPOSITORY, script_environment

START_SECONDS = 300.0
"""Long after a process should have done anything: the machine may be busy with others."""


def start_command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a command; both its streams come out of `stdout`."""
    return subprocess.Popen(
        [sys.executable, "-m", "embedllm", *arguments],
        cwd=REPOSITORY,
        env=script_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Returns when the condition holds; fails when the process ends before."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)
