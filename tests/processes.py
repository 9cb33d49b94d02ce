"""Processes of `python -m embedllm` and of ranks: started, and waited for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from forked import Forked
from tiny_runs import REPOSITORY, script_environment

START_SECONDS = 300.0
"""Long after a process should have done anything: the machine may be busy with others."""


def start_command(*arguments: str, **environment: str) -> Forked:
    """Starts a command; both its streams are kept as its output."""
    words = ("-m", "embedllm", *arguments)
    variables = script_environment(**environment)
    return Forked(words, variables, folder=REPOSITORY, is_merged=True)


def wait_for(condition: Callable[[], bool], process: Forked) -> None:
    """Returns when the condition holds; fails when the process ends before."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert process.is_running, process.wait(1).stdout
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
