"""Fixtures of the tests that list results."""

from __future__ import annotations

from pathlib import Path

import pytest
from listed_results import RECORDS, ListResults, compose_results

from embedllm.entry import Invocation
from embedllm.evaluation.results_command import run_results
from embedllm.results import append_result


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    """A store with the four results."""
    for name, record in RECORDS.items():
        append_result(tmp_path / "results", {**record, "run_name": name})
    return tmp_path / "results"


@pytest.fixture
def list_results(results_folder: Path, capsys: pytest.CaptureFixture[str]) -> ListResults:
    """Runs the command here and returns its stdout."""

    def run(*overrides: str) -> str:
        config = compose_results(f"paths.results_dir={results_folder}", *overrides)
        capsys.readouterr()
        run_results(config, Invocation([], Path()))
        return capsys.readouterr().out

    return run
