"""The log line of training: loss, learning rate, throughput, wait for data, time left."""

from __future__ import annotations

import resource
import time
from typing import Any, Final

import pytorch_lightning as pl
import torch

from embedllm.data.loader import ContrastiveBatch, ContrastiveLoader
from embedllm.log import get_logger
from embedllm.progress import format_seconds
from embedllm.training.module import ContrastiveModule

_GIB: Final = 2**30

_log = get_logger(__name__)


class StepLog(pl.Callback):
    """Logs the means since the last line to the console and to every logger.

    Pace is that of steps and of waiting for their data, without time spent in evaluation. Time
    left is counted from the pace of this process alone, not from that before a resume.

    Args:
        every_n_steps: Distance of lines in optimizer steps; the last step always has one.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every = every_n_steps
        self._sentences = self._tokens = 0
        self._window_seconds = self._all_seconds = 0.0
        self._all_wait_seconds = 0.0
        self._batch_start = 0.0
        self._learning_rate = 0.0
        self._window_steps = self._steps_here = 0
        self._last_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remembers where this process starts, which after a resume is not step 0."""
        self._last_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock of the micro-batch and notes the learning rate it will be used with."""
        self._batch_start = time.perf_counter()
        # When the batch ends, the schedule has moved on to the next step's.
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ContrastiveBatch,
        batch_idx: int,
    ) -> None:
        """Counts the micro-batch and logs when a line is due."""
        assert isinstance(pl_module, ContrastiveModule)
        self._window_seconds += time.perf_counter() - self._batch_start
        self._sentences += len(batch.token_ids)
        self._tokens += batch.num_tokens
        step = trainer.global_step
        if step == self._last_step:
            return
        self._window_steps += step - self._last_step
        self._last_step = step
        if step % self._every == 0 or step == pl_module.total_steps:
            self._write(trainer, pl_module, step)

    def _write(self, trainer: pl.Trainer, module: ContrastiveModule, step: int) -> None:
        loader = trainer.train_dataloader
        assert isinstance(loader, ContrastiveLoader)
        wait = loader.wait_seconds - self._all_wait_seconds
        seconds = self._window_seconds + wait
        self._all_wait_seconds += wait
        self._all_seconds += seconds
        metrics = {
            "train/loss": float(module.mean_loss.compute()),
            "train/in_batch_accuracy": float(module.mean_accuracy.compute()),
            "train/learning_rate": self._learning_rate,
            "train/sentences_per_second": self._sentences / seconds,
            "train/tokens_per_second": self._tokens / seconds,
            "train/data_wait_seconds": wait / self._window_steps,
            "train/negatives_per_anchor": float(module.num_negatives),
            "train/peak_memory_gib": _peak_memory(module.device) / _GIB,
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        self._steps_here += self._window_steps
        left = (module.total_steps - step) * self._all_seconds / self._steps_here
        _log.info(
            "step %d/%d  loss %.4f  accuracy %.2f  lr %.2e  %.1f sentences/s  %.0f tokens/s  "
            "data wait %.1f ms (%.1f%%)  %d negatives per anchor  %s left",
            step,
            module.total_steps,
            metrics["train/loss"],
            metrics["train/in_batch_accuracy"],
            metrics["train/learning_rate"],
            metrics["train/sentences_per_second"],
            metrics["train/tokens_per_second"],
            1000 * metrics["train/data_wait_seconds"],
            100 * wait / seconds,
            module.num_negatives,
            format_seconds(left),
        )
        module.mean_loss.reset()
        module.mean_accuracy.reset()
        self._sentences = self._tokens = self._window_steps = 0
        self._window_seconds = 0.0


def _peak_memory(device: torch.device) -> int:
    """Returns the most bytes that this process has held so far, of the device it computes on."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
