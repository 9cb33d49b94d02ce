"""Which of how many processes this one is, as its launcher says; without loading torch."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Rank:
    """This process among those that work on the same thing.

    Attributes:
        rank: Number of the process, from 0.
        world_size: Processes in all.
        local_rank: Number of the process on its machine, which is the number of its device.
        num_nodes: Machines.
        node_rank: Number of this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    num_nodes: int = 1
    node_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports."""
        return self.rank == 0

    def rotate(self, items: list[int]) -> list[int]:
        """Returns the items from this process' share on, so that processes seldom meet."""
        start = self.rank * len(items) // self.world_size
        return items[start:] + items[:start]


def current_rank() -> Rank:
    """Returns what torchrun or srun says about this process; one process without them."""
    # What srun says; sbatch sets SLURM_NTASKS too, in a script that is one process.
    names = ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID"]
    if "RANK" in os.environ:
        names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"]
    rank, world_size, local_rank, node_rank = (int(os.environ.get(name) or 0) for name in names)
    world_size = max(world_size, rank + 1)
    if "RANK" in os.environ:
        num_nodes = world_size // int(os.environ.get("LOCAL_WORLD_SIZE") or world_size)
    else:
        num_nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or 1) if world_size > 1 else 1
    return Rank(rank, world_size, local_rank, max(num_nodes, 1), node_rank)


@contextmanager
def left_at_once() -> Iterator[None]:
    """Ends one of several processes behind the block, without the destructors of C++ libraries.

    What DeepSpeed and FSDP leave behind keeps gloo's threads running for as long as the process
    lives. Destroyed under them, a library now and then aborts a run that had succeeded.
    """
    code = 0
    try:
        yield
    except SystemExit as error:
        if current_rank().world_size == 1 or isinstance(error.code, str):
            raise
        code = error.code or 0
    if current_rank().world_size > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def slurm_job() -> str | None:
    """Returns the number of the SLURM job that this process belongs to, None without one.

    A task of an array is `array_task`: its own number means, for one of them, the whole array.
    """
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


@cache
def default_run_name() -> str:
    """Returns the name of a run that was given none, the same on all ranks.

    It is the time of the start; in a SLURM job the job's number, which a requeued job keeps. Where
    the job is a shell that somebody sits at, only ranks that srun starts have it.
    """
    rank = current_rank()
    is_batch = os.environ.get("ENVIRONMENT") == "BATCH"
    if is_batch or (rank.world_size > 1 and "RANK" not in os.environ):
        job = slurm_job()
        if job is not None:
            return f"slurm-{job}"
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if rank.world_size == 1:
        return now
    return _agree_before_joining("embedllm/run_name", now, rank)


def _agree_before_joining(key: str, value: str, rank: Rank) -> str:
    """Returns rank 0's value, through the store that the process group will use later."""
    # torchrun's agent serves the store; without one rank 0 does, as it will for the group.
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    # Loaded here: naming a run alone needs no torch.
    import torch.distributed as dist

    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank.is_main and not is_served,
        timeout=timedelta(minutes=2),
        multi_tenant=True,
    )
    _kept_alive.append(store)
    if rank.is_main:
        store.set(key, value)
    return store.get(key).decode()


_kept_alive: list[Any] = []
