"""`python -m embedllm layers` through the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tiny_runs import run_script


def run_layers(folder: Path, *overrides: str) -> tuple[int, str, str]:
    ended = run_script(
        "-m",
        "embedllm",
        "layers",
        "model=tiny",
        "evaluation=sample",
        f"paths.output_dir={folder}",
        "run_name=run",
        *overrides,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_command_writes_and_prints_the_scores(tmp_path: Path) -> None:
    code, out, err = run_layers(tmp_path)
    assert code == 0, err
    with (tmp_path / "run" / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [str(i) for i in range(1, len(rows) + 1)]
    best = max(rows, key=lambda row: float(row["score"]))
    assert f"best: model.layer={best['layer']} ({float(best['score']):.2f})" in out


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.layer=1", "model.layer"),
        ("method=echo", "prompt.pool_over"),
        ("method=metaeol", "prompt.more_templates"),
    ],
)
def test_what_has_no_place_is_named(tmp_path: Path, override: str, named: str) -> None:
    code, _, err = run_layers(tmp_path, override)
    assert code == 2
    assert named in err
    assert "Traceback" not in err
