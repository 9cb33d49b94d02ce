"""Processes of `python -m embedllm` and of ranks: started, and waited for."""

from __future__ import annotations

import socket
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


def free_port() -> str:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def rank_variables(rank: int, world_size: int, port: str) -> dict[str, str]:
    """Returns the variables that torchrun gives one of several processes on one machine."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    sizes = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in {**ranks, **sizes, **place}.items()}
