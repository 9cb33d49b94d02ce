"""Fixtures of the tests of train.py and evaluate.py: calls that must fail, runs to damage."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest
from failing_scripts import Script, only_message
from tiny_runs import REPOSITORY, train_tiny


def _snapshot(folder: Path) -> dict[Path, bytes]:
    """Returns every saved file but what a new start writes: logs, notes, why the last one ended."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".log" and ".hydra" not in path.parts
        if path.name != "failure.json"
    }


@pytest.fixture
def fails(
    entry_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Script:
    """Runs a script here, to save its start; it must leave with one message and delete nothing."""

    def run(script: str, *arguments: str) -> str:
        before = _snapshot(tmp_path)
        defaults = [f"paths.output_dir={tmp_path / 'out'}", "run_name=run"]
        defaults = [
            d for d in defaults if not any(a.startswith(d.split("=")[0]) for a in arguments)
        ]
        if script == "train.py":
            defaults += ["debug=tiny", "trainer.accelerator=cpu"]
        monkeypatch.setattr(sys, "argv", [script, *defaults, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        assert stop.value.code == 2
        after = _snapshot(tmp_path)
        assert {path: after.get(path) for path in before} == before
        return only_message(capsys.readouterr().err)

    return run


@pytest.fixture(scope="session")
def unscored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished run without scores; tests copy what they change."""
    folder = tmp_path_factory.mktemp("unscored")
    train_tiny(folder, "evaluation=none")
    return folder


@pytest.fixture(scope="session")
def scored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with scores."""
    folder = tmp_path_factory.mktemp("scored")
    train_tiny(folder)
    return folder


@pytest.fixture
def adapter(unscored_run: Path, tmp_path: Path) -> Path:
    """An adapter folder that a test may damage."""
    return Path(shutil.copytree(unscored_run / "run" / "adapter", tmp_path / "adapter"))


@pytest.fixture
def begun(unscored_run: Path, tmp_path: Path) -> Path:
    """A finished run whose folder says that it is not: adapter taken away, checkpoints there."""
    shutil.copytree(unscored_run, tmp_path / "out")
    run = tmp_path / "out" / "run"
    shutil.rmtree(run / "adapter")
    return run
