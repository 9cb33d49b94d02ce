"""Learning curves: what a training wrote into `metrics.csv`, from the folders of runs."""

from __future__ import annotations

import csv
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedllm.errors import CheckpointError, ResultError
from embedllm.log import get_logger
from embedllm.run_state import read_overrides

_DEV: Final = "dev/"
_LOSS: Final = "train/loss"
_ACCURACY: Final = "train/in_batch_accuracy"
# A run's folder, or a record of it; a sweep's runs are one folder below. Every start of a run has
# its own version.
_PATTERNS: Final = (
    "*/metrics.csv",
    "*/logs/version_*/metrics.csv",
    "*/*/logs/version_*/metrics.csv",
)
_VERSION: Final = re.compile(r"version_(\d+)")

_log = get_logger(__name__)


@dataclass(frozen=True)
class LearningCurve:
    """The curve of one run.

    Attributes:
        name: Name of the run, with that of its sweep in front.
        loss: Loss by optimizer step.
        accuracy: In-batch accuracy by step, 0 to 1.
        dev: Score by step of every dev task.
        command: What was called, None where the run's folder does not say.
    """

    name: str
    loss: Mapping[int, float]
    accuracy: Mapping[int, float]
    dev: Mapping[str, Mapping[int, float]]
    command: str | None = None


def read_learning_curves(folder: Path, *, strict: bool) -> tuple[LearningCurve, ...]:
    """Returns the curves of all runs in a folder, by name; none when there is no such folder.

    A step that a resumed run made twice has the later start's values.

    Args:
        folder: Folder with the folders of runs.
        strict: Refuse a damaged file; else it is left out with a warning.

    Raises:
        ResultError: `strict` and a file is damaged.
    """
    parts: dict[str, list[Path]] = {}
    for pattern in _PATTERNS:
        for path in folder.glob(pattern):
            parts.setdefault(_run_of(path, folder), []).append(path)
    curves, faults = [], []
    for name, paths in sorted(parts.items()):
        try:
            curve = _merge(name, sorted(paths, key=_start_of), folder / name)
        except (OSError, ValueError, csv.Error, CheckpointError) as error:
            faults.append(f"{name}: {error}")
        else:
            curves.append(curve)
    if faults and strict:
        raise ResultError(
            "\n".join([*faults, f"runs={folder}: strict=false leaves such learning curves out"])
        )
    if faults:
        _log.warning("left out %d learning curves:\n%s", len(faults), "\n".join(faults))
    return tuple(curve for curve in curves if curve.loss or curve.dev)


def _run_of(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts[:-1]
    return "/".join(parts[: parts.index("logs")] if "logs" in parts[1:] else parts)


def _start_of(path: Path) -> int:
    """Returns the number of the start that wrote a file; version 10 comes behind version 9."""
    match = _VERSION.fullmatch(path.parent.name)
    return int(match[1]) if match else -1


def _merge(name: str, paths: list[Path], run: Path) -> LearningCurve:
    columns: dict[str, dict[int, float]] = {}
    for path in paths:
        for step, column, value in _read(path):
            columns.setdefault(column, {})[step] = value
    ordered = {column: dict(sorted(values.items())) for column, values in columns.items()}
    dev = {c.removeprefix(_DEV): v for c, v in sorted(ordered.items()) if c.startswith(_DEV)}
    losses, accuracies = ordered.get(_LOSS, {}), ordered.get(_ACCURACY, {})
    return LearningCurve(name, losses, accuracies, dev, _command_of(run))


def _command_of(run: Path) -> str | None:
    overrides = read_overrides(run)
    return None if overrides is None else shlex.join(["python", "train.py", *overrides])


def _read(path: Path) -> Iterator[tuple[int, str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row.get("step"):
                raise ValueError(f"{path} has a row without a step")
            step = int(float(row["step"]))
            for column, text in row.items():
                is_shown = column in (_LOSS, _ACCURACY) or (column or "").startswith(_DEV)
                # Where training went wrong there is no point, but the rest is worth showing.
                if is_shown and text and math.isfinite(value := float(text)):
                    yield step, column, value
