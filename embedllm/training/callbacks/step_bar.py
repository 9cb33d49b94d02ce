"""The progress bar of training, on a terminal."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl

from embedllm.progress import rich_bar
from embedllm.training.module import ContrastiveModule


class StepBar(pl.Callback):
    """Shows steps done, pace and time left below the log lines; nothing without a terminal."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._shown_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar for the steps that are left."""
        assert isinstance(pl_module, ContrastiveModule)
        self._shown_step = trainer.global_step
        left = pl_module.total_steps - trainer.global_step
        self._advance = self._open.enter_context(rich_bar("training", left, "steps"))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Moves the bar by the optimizer steps made since the last call."""
        self._advance(trainer.global_step - self._shown_step)
        self._shown_step = trainer.global_step

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Closes the bar, also after an error."""
        self._open.close()
