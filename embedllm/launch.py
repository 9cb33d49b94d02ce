"""Starts the processes of a run on this machine, with torch's elastic agent.

The agent watches its processes: when one ends badly it ends the others, and the run leaves with
that one's exit code. On several machines torchrun or srun do this instead.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from embedllm import program
from embedllm.errors import ConfigError, PeerError, PreemptedError
from embedllm.invocation import Invocation
from embedllm.preemption import LAUNCHED, held, requested


def needs_launch(*, devices: int, num_nodes: int) -> bool:
    """Whether the processes of this run are still to be started.

    Args:
        devices: Processes on each machine (`trainer.devices`).
        num_nodes: Machines (`trainer.num_nodes`).

    Raises:
        ConfigError: There are several machines, which only torchrun and srun can reach, or what
            they started is not what the configuration asks for.
    """
    from embedllm.ranks import current_rank

    world_size = current_rank().world_size
    if world_size > 1:
        # Without a word in the configuration the launcher decides alone.
        if devices * num_nodes not in (1, world_size):
            raise ConfigError(
                f"trainer.devices={devices} and trainer.num_nodes={num_nodes} ask for "
                f"{devices * num_nodes} processes, but {world_size} were started; leave the keys "
                "out, or start as many"
            )
        return False
    if num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={num_nodes} needs torchrun or srun to start the processes, for "
            f"example: srun {program.shown('train')} ... (see slurm/)"
        )
    return devices > 1


def launch(name: str, invocation: Invocation, *, run_name: str, num_processes: int) -> None:
    """Runs a command in several processes on this machine and waits for them.

    Args:
        name: `train` or `evaluate`.
        invocation: The command line and the folder that Hydra made for this run.
        run_name: The name that is already chosen, the same for all.
        num_processes: How many.

    Raises:
        SystemExit: A process failed; the code is that of the first one that did.
        PeerError: A signal ended that one, so it has no code and said nothing.
        PreemptedError: This process or one of those was asked to stop, and they have.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = max(1, (os.cpu_count() or 1) // num_processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=f"{LAUNCHED}{uuid.uuid4()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        # Of SIGTERM the agent would make SIGKILL after a while; a step may take longer.
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",
    )
    # What it has to say about a process that failed is said by that process, or below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = [*program.arguments(name), *_overrides_for_children(invocation, run_name)]
    try:
        with held(_pass_on):
            elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        number = requested()
        if failure.exitcode == PreemptedError.exit_code or (number and failure.exitcode < 0):
            name = number.name if number else "a signal to one of its processes"
            raise PreemptedError(f"stopped by {name}") from None
        if failure.exitcode < 0:
            raise PeerError(
                f"rank {rank} was ended by signal {-failure.exitcode}"
                f"{' (out of memory?)' if failure.exitcode == -9 else ''}; the same command goes "
                "on from the last checkpoint"
            ) from None
        raise SystemExit(failure.exitcode) from None


def _pass_on(number: signal.Signals) -> None:
    """Asks the ranks to stop as this process was; before there are any, nothing holds it."""
    children = psutil.Process().children()
    if not children:
        raise PreemptedError(f"stopped by {number.name}")
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.send_signal(number)


def _overrides_for_children(invocation: Invocation, run_name: str) -> Sequence[str]:
    """Returns the command line of one run: a job of a sweep becomes a run of its own."""
    taken = ("run_name=", "hydra.run.dir=")
    rest = [o for o in invocation.overrides if not o.lstrip("+").startswith(taken)]
    folder = Path(invocation.folder).resolve()
    return [*rest, f"run_name={run_name}", f"hydra.run.dir='{folder}'", "hydra.mode=RUN"]
