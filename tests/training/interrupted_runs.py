"""Tiny trainings that end as abruptly as an exception can end them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytorch_lightning as pl
from tiny_runs import extra_callback

NUM_STEPS = 20
STEPS_PER_EPOCH = 10
WITH_DEV_SCORES = (
    "evaluation.tasks=[]",
    "evaluation.dev_every_n_steps=5",
    "data.max_examples=78",
    "trainer.max_epochs=2",
    "trainer.max_steps=20",
)


class Death(BaseException):
    """Ends a training as abruptly as an exception can; nothing in the package expects it."""


class DieAtStep(pl.Callback):
    """Raises when an optimizer step is done."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise Death


@contextmanager
def dying_at(step: int, *, before_hooks: bool = False) -> Iterator[None]:
    """Kills the training at a step: after its hooks, or before its log, score and checkpoint."""
    with extra_callback(DieAtStep(step), is_first=before_hooks), pytest.raises(Death):
        yield
