"""Tiny trainings of which every step is kept, their files and their evaluation."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tiny_runs import compose_evaluate, extra_callback, read_json, train_tiny

from embedllm.data.loader import ContrastiveBatch
from embedllm.evaluation.command import run_evaluate
from embedllm.invocation import Invocation
from embedllm.training.module import ContrastiveModule
from embedllm.training.runner import TrainResult

CPU = torch.device("cpu")
SENTENCES = ["A man plays a guitar.", "Nobody is at the beach", "The committee met on Monday."]


class Recorder(pl.Callback):
    """Keeps what every step saw."""

    def __init__(self) -> None:
        self.module: ContrastiveModule | None = None
        self.batches: list[ContrastiveBatch] = []
        self.epochs: list[int] = []
        self.learning_rates: list[float] = []
        self.gradient_norms: list[float] = []
        self.negatives: list[int] = []
        self.is_training: list[bool] = []
        self.num_steps = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)
        self.epochs.append(trainer.current_epoch)
        self.learning_rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.is_training.append(all(m.training for m in pl_module.modules()))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        self.module = pl_module
        # What AdamW has used: gradients stay until the next batch begins.
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.gradient_norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        self.negatives.append(pl_module.num_negatives)
        self.num_steps = trainer.global_step


def record_run(folder: Path, *overrides: str) -> tuple[Recorder, TrainResult]:
    """Runs or resumes a training and returns what its steps saw, and its result."""
    recorder = Recorder()
    with extra_callback(recorder):
        result = train_tiny(folder, *overrides)
    return recorder, result


def read_metrics(run: Path) -> list[dict[str, str]]:
    """Returns the rows of the figures that a run logs."""
    with (run / "logs" / "version_0" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: Sequence[dict[str, str]], name: str) -> dict[int, float]:
    """Returns one figure by step, where it was logged."""
    return {int(row["step"]): float(row[name]) for row in rows if row[name]}


class FinishedRun:
    """A run of `debug=tiny` and its log."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "run"
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("embedllm")
        level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            self.recorder, self.result = record_run(folder)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def evaluate(folder: Path, *overrides: str) -> dict[str, Any]:
    """Evaluates in this process, in the run folder `folder`/e, and returns the record."""
    folders = [f"paths.output_dir={folder}", f"paths.results_dir={folder}/store"]
    config = compose_evaluate("run_name=e", *folders, *overrides)
    invocation = Invocation(list(overrides), folder / "e", choices={"model": "chosen"})
    run_evaluate(config, invocation)
    return read_json(folder / "e" / "results.json")
