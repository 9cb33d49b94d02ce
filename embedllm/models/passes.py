"""What surrounds the forward passes of an encoder: mode, memory, progress, the way to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


class HostCopy:
    """Vectors on their way to the host, which need not wait for them.

    Args:
        rows: [B], what the vectors belong to.
        vectors: [B, D] on any device.
    """

    def __init__(self, rows: np.ndarray, vectors: Tensor) -> None:
        self._rows = rows
        self._vectors = vectors.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if vectors.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and vectors, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._rows, self._vectors.numpy()


@contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Switches dropout and the like off in the block."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the machine, had no memory left; on a CPU only the text tells."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def sentence_progress(label: str | None, *, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that advances a bar of that label; without one, nothing is shown."""
    if label is None:
        yield lambda count: None
        return
    from embedllm.progress import progress_bar

    with progress_bar(label, total=total, unit="sentences") as advance:
        yield advance
