"""The runs of a sweep as rows: what varies between them, and what came out."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from embedllm.config import flatten, is_in_identity
from embedllm.errors import ResultError
from embedllm.report.markdown import MISSING
from embedllm.run_state import RunState, average_of, find_runs, read_run_state

SEED: Final = "seed"
# Overrides that choose how a sweep is run, not what a run is.
_NOT_A_VALUE: Final = ("sweep", "hydra", "num_trials")


@dataclass(frozen=True)
class SweepRow:
    """One run.

    Attributes:
        values: What it has for each key that varies.
        state: Its folder's content.
    """

    values: dict[str, str]
    state: RunState

    @property
    def before(self) -> float | None:
        """Average before training."""
        return average_of(self.state.before)

    @property
    def after(self) -> float | None:
        """Average after training."""
        return self.state.average

    @property
    def setting(self) -> tuple[str, ...]:
        """What varies, without the seed."""
        return tuple(value for key, value in self.values.items() if key != SEED)


@dataclass(frozen=True)
class Spread:
    """A score over several seeds.

    Attributes:
        mean: Their mean.
        deviation: Standard deviation (n - 1), None for one.
        number: How many.
    """

    mean: float
    deviation: float | None
    number: int

    @classmethod
    def of(cls, scores: Sequence[float | None]) -> Spread | None:
        """Returns the spread of the scores that are there, None without any."""
        known = [score for score in scores if score is not None]
        if not known:
            return None
        deviation = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), deviation, len(known))


@dataclass(frozen=True)
class Sweep:
    """All runs in the folder of a sweep, ordered by what varies.

    Attributes:
        name: Name of the folder.
        folder: The folder.
        keys: What varies.
        rows: The runs.
    """

    name: str
    folder: Path
    keys: tuple[str, ...]
    rows: tuple[SweepRow, ...]

    def of_status(self, *statuses: str) -> list[SweepRow]:
        """Returns the runs with one of these states."""
        return [row for row in self.rows if row.state.status in statuses]

    @property
    def settings(self) -> dict[tuple[str, ...], list[SweepRow]]:
        """The finished runs by what varies besides the seed."""
        found: dict[tuple[str, ...], list[SweepRow]] = {}
        for row in self.of_status("done"):
            found.setdefault(row.setting, []).append(row)
        return found


def read_sweep(folder: Path) -> Sweep:
    """Returns the runs of a sweep.

    Raises:
        ResultError: The folder has no runs.
        CheckpointError: A file of a run is damaged.
    """
    states = [read_run_state(run) for run in find_runs(folder)]
    if not states:
        raise ResultError(f"there are no runs in {folder}; sweep= is a sweep's name or its folder")
    given = [_values_of(state) for state in states]
    defaults = [_flat_config(state) for state in states]
    keys = []
    for key in sorted({key for values in given for key in values}):
        shown = [v.get(key, d.get(key, MISSING)) for v, d in zip(given, defaults, strict=True)]
        if len(set(shown)) > 1:
            keys.append(key)
    rows = [
        SweepRow({key: v.get(key, d.get(key, MISSING)) for key in keys}, state)
        for v, d, state in zip(given, defaults, states, strict=True)
    ]
    rows.sort(key=lambda row: ([_order(v) for v in row.values.values()], row.state.folder.name))
    return Sweep(folder.resolve().name, folder, tuple(keys), tuple(rows))


def _values_of(state: RunState) -> dict[str, str]:
    # What changes no result is a value where it was swept.
    swept = state.overrides.get("swept_keys", "").strip("[]").split(",")
    return {
        key: value
        for key, value in state.overrides.items()
        if (is_in_identity(key) or key in swept) and not key.startswith(_NOT_A_VALUE)
    }


def _flat_config(state: RunState) -> dict[str, str]:
    """Returns the values of a run that began, as the command line would have them."""
    config: dict[str, Any] = state.manifest["config"] if state.manifest else {}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in flatten(config).items()}


def _order(value: str) -> tuple[float, str]:
    """Returns a key that sorts numbers by their value, in front of texts."""
    try:
        number = float(value)
    except ValueError:
        return (math.inf, value)
    return (number if math.isfinite(number) else math.inf, value)
