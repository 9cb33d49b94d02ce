"""Fixtures of the tests of trainings: runs that several tests look at, compare with or copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from interrupted_runs import dying_at
from recorded_runs import FinishedRun
from tiny_runs import train_tiny

from embedllm.training.callbacks.dev_score import DevScore


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of `debug=tiny` with scores."""
    return FinishedRun(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the folder of an uninterrupted run with the given overrides, made once for each."""
    runs: dict[tuple[str, ...], Path] = {}

    def get(*overrides: str) -> Path:
        if overrides not in runs:
            folder = tmp_path_factory.mktemp("uninterrupted")
            train_tiny(folder, *overrides)
            runs[overrides] = folder / "run"
        return runs[overrides]

    return get


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run killed at step 5 with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("interrupted")
    with dying_at(5):
        train_tiny(folder, "evaluation=none")
    checkpoints = folder / "run" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-000002.ckpt", "step-000004.ckpt"]
    return folder / "run"


@pytest.fixture
def interrupted(interrupted_run: Path, tmp_path: Path) -> Path:
    """An output folder with a copy of the interrupted run."""
    shutil.copytree(interrupted_run, tmp_path / "run")
    return tmp_path


_SCORE = DevScore._score


def _rising_score(self: DevScore, step: int, total: int) -> float:
    _SCORE(self, step, total)
    return float(step)


@pytest.fixture
def rising_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores as usual but calls the later adapter the better, so that late steps show too."""
    monkeypatch.setattr(DevScore, "_score", _rising_score)
