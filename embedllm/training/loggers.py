"""Where metrics go: a CSV file always, Weights & Biases when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from embedllm.config import TrainConfig, fingerprint, training_identity
from embedllm.ranks import current_rank
from embedllm.tracking import TrackedRun, Tracker, tracked
from embedllm.training.run_folder import RunFolder


def track(
    config: TrainConfig, run: RunFolder, *, is_complete: bool
) -> AbstractContextManager[Tracker]:
    """Returns the block in which a run is followed by W&B: on rank 0, while there is work to do.

    Args:
        config: The run's config.
        run: Its folder.
        is_complete: Whether the run only reports what it has.
    """
    rank = current_rank()
    is_tracked = config.logger.wandb and rank.is_main and not is_complete

    def describe() -> TrackedRun:
        digest = fingerprint(training_identity(config))
        return TrackedRun(
            name=config.run_name,
            identity=digest,
            job_type="train",
            group=config.logger.group or config.sweep_name,
            folder=run.root,
            config={**asdict(config), "fingerprint": digest, "world_size": rank.world_size},
        )

    return tracked(replace(config.logger, wandb=is_tracked), describe)


def build_loggers(run: RunFolder, tracker: Tracker) -> list[Logger]:
    """Returns the loggers of a training.

    Every start of a run gets its own `logs/version_N/metrics.csv`, so a resumed run never
    overwrites what an earlier start has written.
    """
    loggers: list[Logger] = [CSVLogger(run.root, name=run.logs.name)]
    if tracker.run is not None:
        loggers.append(_TrackerLogger(tracker, run))
    return loggers


class _TrackerLogger(WandbLogger):
    """Lightning's logger for a run that may be lost at any moment."""

    def __init__(self, tracker: Tracker, run: RunFolder) -> None:
        super().__init__(save_dir=str(run.root), experiment=tracker.run)
        self._tracker = tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics under the optimizer step."""
        self._tracker.attempt(lambda run: super(_TrackerLogger, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        """Does nothing: W&B has the resolved configuration since the start."""

    def finalize(self, status: str) -> None:
        """Does nothing: the scores after training belong to the same run."""
