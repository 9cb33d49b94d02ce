"""Tiny trainings that end as abruptly as an exception can end them, or by a signal, in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytorch_lightning as pl
from tiny_runs import extra_callback

from embedllm.errors import PreemptedError
from embedllm.preemption import stop_requests

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


class KillAtStep(DieAtStep):
    """Kills the process when an optimizer step is done."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def dying_at(step: int, *, before_hooks: bool = False) -> Iterator[None]:
    """Kills the training at a step: after its hooks, or before its log, score and checkpoint."""
    with extra_callback(DieAtStep(step), is_first=before_hooks), pytest.raises(Death):
        yield


class Ask(pl.Callback):
    """Sends this process a signal when a batch begins, and once more before the step ends.

    Args:
        number: The signal.
        at_batch: The batch, counted from 1 in this process.
    """

    def __init__(self, number: signal.Signals, *, at_batch: int) -> None:
        self._number = number
        self._left = at_batch

    def on_train_batch_start(self, *_: Any) -> None:
        self._left -= 1
        self._ask()

    def on_before_zero_grad(self, *_: Any) -> None:
        self._ask()

    def _ask(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), self._number)


@contextmanager
def asked_at(
    batch: int, number: signal.Signals, *, is_this_rank: bool = True
) -> Iterator[pytest.ExceptionInfo[PreemptedError]]:
    """Asks the training to stop, which it does; yields what it says."""
    ask = Ask(number, at_batch=batch) if is_this_rank else pl.Callback()
    with stop_requests(), extra_callback(ask), pytest.raises(PreemptedError) as caught:
        yield caught
