"""Ends a training after the optimizer step in which it was asked to stop, with a checkpoint."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from embedllm.distributed import any_rank
from embedllm.errors import PreemptedError
from embedllm.log import get_logger
from embedllm.preemption import requested
from embedllm.training.checkpoints import StepCheckpoint
from embedllm.training.module import ContrastiveModule

_log = get_logger(__name__)


class Preemption(pl.Callback):
    """Looks after every optimizer step whether a process was asked to stop; then all stop.

    It comes behind the callbacks whose state belongs to the step, as the dev score's does. After
    the last step there is nothing to interrupt: the adapter is kept first (`end_if_asked`).

    Args:
        checkpoint: Writes the resume point.
    """

    def __init__(self, checkpoint: StepCheckpoint) -> None:
        self.checkpoint = checkpoint
        self._last_step = 0
        self._position: str | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remembers where this process starts."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Asks all ranks when a step is done, not between its micro-batches."""
        assert isinstance(pl_module, ContrastiveModule)
        step = trainer.global_step
        if step in (self._last_step, pl_module.total_steps):
            return
        self._last_step = step
        if any_rank(requested() is not None):
            self.checkpoint.save_now(trainer)
            trainer.should_stop = True
            self._position = f"step {step} of {pl_module.total_steps}"
            _log.info("asked to stop; %s is done and saved", self._position)

    def end_if_stopped(self) -> None:
        """Ends the run when it has stopped before its last step; all ranks call it.

        Raises:
            PreemptedError: It has.
        """
        if self._position is not None:
            raise _error(f"{_describe()} after {self._position}")


def end_if_asked() -> None:
    """Ends the run when one of its ranks was asked to stop; all ranks call it.

    Raises:
        PreemptedError: One was.
    """
    if any_rank(requested() is not None):
        raise _error(_describe())


def _describe() -> str:
    number = requested()
    return f"stopped by {number.name}" if number else "stopped by a signal to another process"


def _error(message: str) -> PreemptedError:
    return PreemptedError(message, is_agreed=True)


class _NoSignals:
    """What Lightning asks about signals when nobody listens to them."""

    received_sigterm = False

    def register_signal_handlers(self) -> None:
        """Leaves them as they are."""

    def teardown(self) -> None:
        """Has nothing to undo."""


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Keeps Lightning from answering SIGTERM itself, which has no setting.

    Its handler talks to the other ranks from wherever this one happens to be, and then ends the
    training without a checkpoint.
    """
    trainer._signal_connector = _NoSignals()  # type: ignore[assignment]
