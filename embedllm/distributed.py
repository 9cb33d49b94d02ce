"""Which of how many processes this one is, as its launcher says."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rank:
    """This process among those that work on the same thing without talking to each other.

    Attributes:
        rank: Number of the process, from 0.
        world_size: Processes in all.
        local_rank: Number of the process on its machine, which is the number of its device.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

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
    if "RANK" in os.environ:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    else:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    rank, world_size, local_rank = (int(os.environ.get(name) or 0) for name in names)
    return Rank(rank, max(world_size, rank + 1), local_rank)


def use_device_of(rank: Rank) -> None:
    """Makes the process' own GPU the current one, where there are GPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local_rank % torch.cuda.device_count())
