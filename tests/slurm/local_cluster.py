"""A real SLURM on this machine, by `slurm/local-cluster.sh`, and what tests ask of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import documented
from filelock import FileLock
from tiny_runs import REPOSITORY, script_environment

PATIENCE_SECONDS = 300.0
"""A job that is requeued waits half a minute, and the machine may be busy with others."""


@dataclass(frozen=True)
class Cluster:
    """A running SLURM with two emulated nodes.

    Attributes:
        environment: What its commands, and those that submit to it, need.
    """

    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Returns what a command prints; fails with its messages when it fails."""
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, command: Sequence[str], *options: str) -> str:
        """Returns the number of the job of `sbatch ...`, which gets a few more options."""
        assert command[0] == "sbatch"
        said = self.run("sbatch", "--parsable", "--cpus-per-task=1", *options, *command[1:])
        return said.strip()

    def state(self, job: str) -> str:
        """Returns the job's state, `RUNNING` for example."""
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        """Returns a field of the job as `scontrol show job` prints it."""
        words = self.run("scontrol", "show", "job", "--oneliner", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait_for_end(self, job: str, log: Path) -> str:
        """Returns the job's last state."""
        waits = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"}
        self.wait_for(lambda: self.state(job) not in waits, log)
        return self.state(job)

    def wait_for_text(self, text: str, log: Path, *, count: int = 1) -> None:
        """Returns when the log has the text that many times."""
        self.wait_for(lambda: _read(log).count(text) >= count, log)

    def wait_for(self, condition: Callable[[], bool], log: Path) -> None:
        """Returns when the condition is true; fails with the log when it never is."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end, _read(log)
            time.sleep(0.1)


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8") if log.exists() else ""


@contextmanager
def running_cluster(factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Starts the cluster, or joins the other workers of this test run, and stops it with the last.

    Args:
        factory: Gives the folder that the workers share.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place, users = root / "slurm-place", root / "slurm-users"
    with FileLock(root / "slurm.lock"):
        if not place.exists():
            # Not below pytest's folder, which only its owner can enter: munge has its own user.
            place.write_text(f"{tempfile.mkdtemp(prefix='embedllm-slurm-')} {_free_ports()}")
        folder, port = place.read_text().split()
        environment = script_environment(
            EMBEDLLM_SLURM_DIR=folder,
            PORT=port,
            NODES="2",
            CPUS="4",
            # The scripts ask for a GPU, and find the program in the tests' own environment.
            SBATCH_GPUS_PER_NODE="0",
            VIRTUAL_ENV=sys.prefix,
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH=str(REPOSITORY),
        )
        said = _call("start", environment)
        users.write_text(str(_count(users) + 1))
    name, _, value = said.removeprefix("export ").strip().partition("=")
    try:
        yield Cluster({**environment, name: value})
    finally:
        with FileLock(root / "slurm.lock"):
            users.write_text(str(_count(users) - 1))
            if _count(users) == 0:
                _call("stop", environment)


def _count(users: Path) -> int:
    return int(users.read_text()) if users.exists() else 0


def call_script(action: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs `slurm/local-cluster.sh ACTION` as the documentation does."""
    shown = (
        "sudo slurm/local-cluster.sh install",
        # What it prints is for the shell.
        'eval "$(sudo slurm/local-cluster.sh start)"',
        "sudo slurm/local-cluster.sh status",
        "sudo slurm/local-cluster.sh stop",
    )
    command = f"slurm/local-cluster.sh {action}"
    [words] = [documented(text) for text in shown if command in text]
    assert f"sudo {command}" in " ".join(words)
    return subprocess.run(
        command.split(),
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _call(action: str, environment: dict[str, str]) -> str:
    done = call_script(action, environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _free_ports() -> int:
    """Returns the first of three free ports that follow one another."""
    for first in range(20000 + os.getpid() % 10000, 32000, 3):
        try:
            for port in range(first, first + 3):
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def why_not() -> str | None:
    """Returns why there can be no cluster here; None when there can. May install it."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a local SLURM needs Linux and root"
    if os.environ.get("EMBEDLLM_INSTALL_SLURM") == "1":
        with FileLock("/tmp/embedllm-slurm-install.lock"):
            done = call_script("install", dict(os.environ))
        if done.returncode != 0:
            return f"SLURM cannot be installed: {done.stderr[-300:]}"
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    if any(shutil.which(name, path=path) is None for name in ("slurmctld", "slurmd", "munged")):
        return "SLURM is not installed (slurm/local-cluster.sh install)"
    return None
