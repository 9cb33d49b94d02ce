"""The commands of docs/operations.md, section Faults, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import ROOT, documented
from tiny_runs import RunHere, have_equal_weights, read_json, run_script

RECORD = "benchmarks/results/faults/cpu.json"


def _run(command: str, *more: str) -> str:
    python, *words = documented(command)
    assert python == "python"
    done = run_script(*words, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_same_command_goes_on(run_here: RunHere, tmp_path: Path) -> None:
    folder = (f"paths.output_dir={tmp_path}", "trainer.accelerator=cpu", "evaluation=none")
    code, said = run_here(*documented("python train.py debug=tiny run_name=first")[1:], *folder)
    assert code == 0, said
    run = tmp_path / "first"
    # As a kill behind the last checkpoint leaves it.
    (run / "adapter").rename(tmp_path / "whole")
    (run / "checkpoints" / "step-000008.ckpt").unlink()
    skipping = documented("python train.py debug=tiny run_name=first trainer.on_nan=skip")
    code, said = run_here(*skipping[1:], *folder)
    assert code == 0, said
    assert "resuming from" in said
    assert "step-000006.ckpt" in said
    assert have_equal_weights(run / "adapter", tmp_path / "whole")


def test_the_table_is_that_of_the_record() -> None:
    said = _run("python benchmarks/faults_table.py benchmarks/results/faults/cpu.json")
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in page


def test_nothing_was_lost_in_the_record() -> None:
    record = read_json(ROOT / RECORD)
    assert all(row["data_lost"] == 0 for row in record["faults"].values())
    assert all(len(row["steps_lost"]) == row["times"] for row in record["faults"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "test"),
    [
        (
            'python -m pytest tests/faults -m "slow or not slow" --faults-record '
            "benchmarks/results/faults/cpu.json",
            "test_five_kills_of_one_of_two_ranks",
        ),
        ("python -m pytest -m slow tests/faults/test_soak.py", "test_500_steps_with_kills"),
    ],
)
def test_the_commands_that_make_it(command: str, test: str) -> None:
    # They take an hour, so it is only seen that they would run.
    assert test in _run(command, "--collect-only", "-q", "-p", "no:cacheprovider")
