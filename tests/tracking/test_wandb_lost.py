"""W&B is slow, silent or gone: the run ends in time, with the adapter it has without W&B."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytorch_lightning as pl
import wandb
from offline_files import offline_runs
from silent_server import silent_server
from tiny_runs import extra_callback, have_equal_weights, train_tiny

_TINY = (
    "trainer.max_steps=4",
    "evaluation=none",
    "data.max_examples=32",
    "logger.timeout_seconds=10",
)
# Of starting and ending, with a reserve for a busy machine.
_MOST_SECONDS = 120.0


class _At(pl.Callback):
    """Does something once, after a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self._step = step
        self._action = action

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            self._action()


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Returns the adapter of the same run without W&B."""
    return train_tiny(tmp_path / "reference", *_TINY).adapter


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    # Its settings are read once in a process.
    wandb.teardown()


def test_a_server_that_never_answers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with silent_server(lets_runs_begin=False) as server:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        start = time.monotonic()
        result = train_tiny(tmp_path, *_TINY, "logger=wandb", "logger.timeout_seconds=2")
        assert time.monotonic() < start + _MOST_SECONDS
        assert server.bodies, "nobody asked it"
    assert result.adapter.is_dir()
    assert caplog.text.count("W&B did not start in mode online") == 1
    # What it would have got is there, to be uploaded.
    assert sorted(offline_runs(tmp_path / "run")[-1].curve("train/loss")) == [1, 2, 3, 4]


def test_a_server_that_falls_silent_in_the_middle(
    tmp_path: Path,
    reference: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with silent_server(lets_runs_begin=True) as server:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        start = time.monotonic()
        with extra_callback(_At(2, server.is_silent.set)):
            result = train_tiny(tmp_path, *_TINY, "logger=wandb")
        assert time.monotonic() < start + _MOST_SECONDS
        assert any("UpsertBucket" in body for body in server.bodies), "the run did not begin"
    assert have_equal_weights(result.adapter, reference)
    assert caplog.text.count("W&B is lost") == 1
    [found] = offline_runs(tmp_path / "run")
    assert f"wandb sync {found.folder}" in caplog.text
    assert sorted(found.curve("train/loss")) == [1, 2, 3, 4]


def test_its_process_is_killed_in_the_middle(
    tmp_path: Path,
    reference: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    killed = []

    def kill() -> None:
        for child in psutil.Process().children(recursive=True):
            if child.name().startswith("wandb-core"):
                child.kill()
                child.wait()
                killed.append(child.pid)

    start = time.monotonic()
    with extra_callback(_At(2, kill)):
        result = train_tiny(tmp_path, *_TINY, "logger=wandb")
    assert time.monotonic() < start + _MOST_SECONDS
    assert killed
    assert have_equal_weights(result.adapter, reference)
    assert caplog.text.count("W&B is lost") == 1
    # The next run of the same process has a W&B again.
    caplog.clear()
    train_tiny(tmp_path / "next", *_TINY, "logger=wandb")
    assert "W&B is lost" not in caplog.text
    assert offline_runs(tmp_path / "next" / "run")[0].curve("train/loss")
