"""Where metrics go: a CSV file always, Weights & Biases when asked for."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from embedllm.config import TrainConfig, fingerprint, training_identity
from embedllm.log import get_logger
from embedllm.training.run_folder import RunFolder

_log = get_logger(__name__)


def build_loggers(config: TrainConfig, run: RunFolder) -> list[Logger]:
    """Returns the loggers of a run.

    Every start of a run gets its own `logs/version_N/metrics.csv`, so a resumed run never
    overwrites what an earlier start has written.
    """
    loggers: list[Logger] = [CSVLogger(run.root, name=run.logs.name)]
    if config.logger.wandb:
        wandb_logger = _build_wandb(config, run)
        if wandb_logger is not None:
            loggers.append(wandb_logger)
    return loggers


def _build_wandb(config: TrainConfig, run: RunFolder) -> Logger | None:
    """Returns a W&B logger that is online with a key and an answering server, else offline.

    W&B is a witness of the run, not a part of it: whatever fails here is a warning.
    """
    settings = config.logger
    has_key = bool(os.environ.get("WANDB_API_KEY")) or _has_saved_key()
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    run.root.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any] = {
        "project": settings.project,
        "group": settings.group,
        "tags": settings.tags or None,
        "name": config.run_name,
        # The same id after a resume continues the same W&B run.
        "id": f"{config.run_name[:40]}-{fingerprint(training_identity(config))}",
        "save_dir": str(run.root),
        "config": asdict(config),
    }
    attempts = [mode] if mode != "online" else ["online", "offline"]
    for attempt in attempts:
        try:
            return _start_wandb(attempt, arguments, settings.timeout_seconds)
        except Exception as error:
            _log.warning("W&B did not start in mode %s: %s", attempt, error)
            _stop_wandb_service()
    _log.warning("the run goes on without W&B")
    return None


def _start_wandb(mode: str, arguments: dict[str, Any], timeout_seconds: int) -> Logger:
    import wandb

    logger = WandbLogger(
        **arguments,
        offline=mode == "offline",
        resume="allow",
        settings=wandb.Settings(init_timeout=timeout_seconds, silent=True),
    )
    folder = logger.experiment.dir
    if mode == "offline":
        _log.info("W&B is offline; upload with `wandb sync %s`", os.path.dirname(folder))  # noqa: PTH120
    return logger


def _stop_wandb_service() -> None:
    """Ends W&B's service process, which else keeps the run's id after a failed start."""
    with suppress(Exception):
        import wandb

        wandb.teardown()


def _has_saved_key() -> bool:
    """Whether `wandb login` left a key in the netrc file."""
    try:
        import netrc

        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, ValueError, SyntaxError):
        return False
