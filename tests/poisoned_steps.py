"""Trainings whose loss or gradients are NaN at chosen steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny_runs import extra_callback
from torch import Tensor

from embedllm.models.whole import trainable_parameters
from embedllm.training.module import ContrastiveModule

NAN = float("nan")


class _PoisonGradient(pl.Callback):
    """Makes the gradient of one weight NaN on one rank, wherever the strategy keeps it."""

    def __init__(self, steps: tuple[int, ...], rank: int) -> None:
        self._steps = steps
        self._rank = rank
        self._hook: Any = None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return trainer.global_step + 1 in self._steps and trainer.global_rank == self._rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if self._is_due(trainer):
            _, weight = trainable_parameters(pl_module)[-1]
            self._hook = weight.register_hook(lambda gradient: gradient * NAN)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # FSDP2 sets gradients itself, past all hooks.
        gradient: Any = trainable_parameters(pl_module)[-1][1].grad
        if self._is_due(trainer) and hasattr(gradient, "to_local"):
            gradient.to_local().fill_(NAN)

    def on_train_batch_end(self, *_: Any) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None


def poisoned_gradients(*steps: int, rank: int = 0) -> AbstractContextManager[None]:
    """Makes a gradient NaN at these steps, on one rank alone."""
    return extra_callback(_PoisonGradient(steps, rank))


@contextmanager
def poisoned_losses(*steps: int, micro_batch: int = 0, value: float = NAN) -> Iterator[None]:
    """Makes one vector, and so the loss, of one micro-batch of these steps NaN or infinite."""
    score = ContrastiveModule._score

    def poisoned(self: ContrastiveModule, vectors: Tensor, batch: Any) -> Tensor:
        number = self.trainer.fit_loop.batch_idx % self.trainer.accumulate_grad_batches
        if self.global_step + 1 in steps and number == micro_batch:
            factors = torch.ones(len(vectors), 1)
            factors[-1] = value
            vectors = vectors * factors
        return score(self, vectors, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContrastiveModule, "_score", poisoned)
        yield
