"""Seeds of torch's generators, for a block of code or from now on.

`torch.manual_seed` seeds every kind of device that torch knows, and for each that is not in use it
notes the whole call stack. That takes milliseconds, as long as a step of a small model; and every
module that gets random weights has a seed of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_seed(seed: int, device: torch.device) -> None:
    """Seeds the generators of the host and of a device.

    Args:
        seed: The seed, 0 to 2^64 - 1.
        device: Where tensors are drawn beside the host.
    """
    if device.type not in ("cpu", "meta", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def kept_state(device: torch.device) -> Iterator[None]:
    """Sets the generators of the host and of a GPU back, behind the block, to where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
