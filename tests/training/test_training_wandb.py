"""Weights & Biases offline, out of reach and failing: the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import run_script, script_environment, train_tiny

from embedllm import tracking


@pytest.fixture
def no_wandb_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    # No netrc of the person who runs the tests.
    monkeypatch.setenv("HOME", str(tmp_path))


def _wandb_run(tmp_path: Path, **environment: str) -> tuple[str, list[Path]]:
    result = run_script(
        "train.py",
        "debug=tiny",
        "run_name=run",
        f"paths.output_dir={tmp_path}",
        "trainer.accelerator=cpu",
        "evaluation=none",
        "logger=wandb",
        "logger.timeout_seconds=3",
        environment=script_environment(HOME=str(tmp_path), **environment),
        timeout=400,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "adapter").is_dir()
    return result.stdout + result.stderr, list((tmp_path / "run" / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize(
    "environment",
    [
        # What the other one falls back to.
        pytest.param({"WANDB_MODE": "offline"}, id="offline", marks=pytest.mark.slow),
        pytest.param(
            {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, id="refused"
        ),
    ],
)
def test_wandb_offline(environment: dict[str, str], tmp_path: Path) -> None:
    text, folders = _wandb_run(tmp_path, **environment)
    assert len(folders) == 1
    assert list(folders[0].glob("*.wandb"))
    assert f"wandb sync {folders[0]}" in text
    assert ("W&B did not start in mode online" in text) == ("WANDB_API_KEY" in environment)
    assert "the run goes on without W&B" not in text


@pytest.mark.usefixtures("no_wandb_settings")
def test_a_failing_wandb_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    modes = []

    def fail(mode: str, *_: Any) -> None:
        modes.append(mode)
        raise OSError("no room for a service")

    monkeypatch.setattr(tracking, "_init", fail)
    monkeypatch.setattr(tracking, "_stop_service", lambda: None)
    result = train_tiny(tmp_path, "evaluation=none", "logger=wandb")
    assert result.adapter.is_dir()
    assert modes == ["offline"]
    assert "no room for a service" in caplog.text
    assert "the run goes on without W&B" in caplog.text


@pytest.mark.usefixtures("no_wandb_settings")
def test_wandb_is_tried_online_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def fail(mode: str, *_: Any) -> None:
        modes.append(mode)
        raise TimeoutError

    monkeypatch.setattr(tracking, "_init", fail)
    monkeypatch.setattr(tracking, "_stop_service", lambda: None)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    train_tiny(tmp_path, "evaluation=none", "logger=wandb")
    assert modes == ["online", "offline"]
