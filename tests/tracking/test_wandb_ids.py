"""Which starts are one run at W&B: those of one run in one folder, preempted ones included."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from interrupted_runs import asked_at
from offline_files import OfflineRun, offline_runs
from silent_server import silent_server
from tiny_runs import train_tiny

from embedllm import tracking
from embedllm.config import LoggerConfig
from embedllm.errors import PreemptedError
from embedllm.tracking import TrackedRun, tracked

_TINY = ("trainer.max_steps=4", "evaluation=none", "data.max_examples=32", "logger=wandb")
# Far from the two seconds that are given, and from `logger.timeout_seconds`.
_MOST_SECONDS_TO_LEAVE = 15.0


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    # Its settings are read once in a process.
    wandb.teardown()


def _about(folder: Path, identity: str = "a") -> TrackedRun:
    return TrackedRun("run", identity, "train", group=None, folder=folder, config={})


def _track(folder: Path, identity: str = "a") -> None:
    with tracked(LoggerConfig(wandb=True), lambda: _about(folder, identity)) as tracker:
        assert tracker.run is not None


def _ids(folder: Path) -> list[str]:
    return [found.run.run_id for found in offline_runs(folder)]


def test_a_preempted_run_goes_on_in_the_same_one(tmp_path: Path) -> None:
    with asked_at(2, signal.SIGUSR1) as caught:
        train_tiny(tmp_path, *_TINY)
    assert str(caught.value) == "stopped by SIGUSR1 after step 2 of 4"
    train_tiny(tmp_path, *_TINY)
    first, second = offline_runs(tmp_path / "run")
    assert first.run.run_id == second.run.run_id

    def end(found: OfflineRun) -> tuple[Any, ...]:
        return found.is_preempted, found.exit_code, sorted(found.curve("train/loss"))

    # Preempted at W&B is what was marked so and ended with another code than 0.
    assert end(first) == (True, 75, [1, 2])
    assert end(second) == (False, 0, [3, 4])


def test_a_folder_keeps_its_id_and_no_other_has_it(tmp_path: Path) -> None:
    for sweep in ("seeds", "lora-rank"):
        for _ in range(2):
            _track(tmp_path / sweep / "same-name")
    again, other = (_ids(tmp_path / sweep / "same-name") for sweep in ("seeds", "lora-rank"))
    assert len(again) == len(other) == 2
    assert len({*again}) == len({*other}) == 1
    assert again[0] != other[0]


def test_a_folder_that_was_removed_takes_its_id_along(tmp_path: Path) -> None:
    _track(tmp_path / "first")
    [before] = _ids(tmp_path / "first")
    shutil.rmtree(tmp_path / "first")
    _track(tmp_path / "first")
    assert _ids(tmp_path / "first") != [before]


def test_another_configuration_in_a_folder_without_progress_is_another_run(tmp_path: Path) -> None:
    _track(tmp_path, "a")
    _track(tmp_path, "b")
    assert len({*_ids(tmp_path)}) == 2


def test_an_agent_names_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    _track(tmp_path)
    assert _ids(tmp_path) == ["of-the-agent"]


def test_a_preempted_run_does_not_wait_for_a_silent_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "_SECONDS_TO_LEAVE", 2.0)
    with silent_server(lets_runs_begin=True) as server:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        settings = LoggerConfig(wandb=True, timeout_seconds=20)
        with pytest.raises(PreemptedError), tracked(settings, lambda: _about(tmp_path)) as tracker:
            assert tracker.run is not None
            assert tracker.run.settings.mode == "online"
            tracker.attempt(lambda run: run.log({"x": 1}))
            server.is_silent.set()
            start = time.monotonic()
            raise PreemptedError("stopped by SIGTERM")
        assert time.monotonic() < start + _MOST_SECONDS_TO_LEAVE
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "no answer in 2 s" in warning
    [found] = offline_runs(tmp_path)
    assert f"wandb sync {found.folder}" in warning
