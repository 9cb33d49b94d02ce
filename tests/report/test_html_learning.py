"""Learning curves of the HTML page: from which files, with which command."""

from __future__ import annotations

from pathlib import Path

import pytest
from html_pages import make_content
from report_records import DEV, store_result

from embedllm.errors import ResultError
from embedllm.report.html.learning import learning_section
from embedllm.report.learning_curves import LearningCurve, read_learning_curves


def _write_metrics(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True)
    header = "dev/sample-dev,step,train/in_batch_accuracy,train/loss"
    path.write_text("\n".join([header, *rows, ""]))


def test_curves_of_runs_sweeps_records_and_resumed_runs(tmp_path: Path) -> None:
    _write_metrics(tmp_path / "kept" / "metrics.csv", ",1,0.5,3.0", "60.5,1,,")
    for version, loss in ((0, 2.0), (9, 1.5), (10, 1.0)):
        path = tmp_path / "run" / "logs" / f"version_{version}" / "metrics.csv"
        _write_metrics(path, f",4,0.5,{loss}", f",{version + 5},0.5,0.9")
    _write_metrics(tmp_path / "sweep" / "a" / "logs" / "version_0" / "metrics.csv", ",1,,nan")
    _write_metrics(tmp_path / "sweep" / "b" / "logs" / "version_0" / "metrics.csv", ",1,0.1,2.5")
    assert read_learning_curves(tmp_path, strict=True) == (
        LearningCurve("kept", {1: 3.0}, {1: 0.5}, {"sample-dev": {1: 60.5}}),
        # Step 4 was made three times; the tenth restart comes behind the ninth.
        LearningCurve(
            "run", {4: 1.0, 5: 0.9, 14: 0.9, 15: 0.9}, {4: 0.5, 5: 0.5, 14: 0.5, 15: 0.5}, {}
        ),
        LearningCurve("sweep/b", {1: 2.5}, {1: 0.1}, {}),
    )
    assert read_learning_curves(tmp_path / "nowhere", strict=True) == ()


def test_the_command_of_a_run_is_in_its_folder_or_with_its_scores(tmp_path: Path) -> None:
    for name in ("scored", "unscored", "unknown"):
        _write_metrics(tmp_path / name / "logs" / "version_0" / "metrics.csv", ",1,0.5,3.0")
    overrides = tmp_path / "unscored" / ".hydra" / "overrides.yaml"
    overrides.parent.mkdir()
    overrides.write_text("- run_name=unscored\n- evaluation=none\n")
    curves = read_learning_curves(tmp_path, strict=True)
    scored = {"run_name": "scored", "command": ["train.py", "run_name=scored"]}
    evaluated = {"run_name": "scored", "command": ["evaluate.py", "adapter_path=x"]}
    results = (store_result({DEV: 60.0}, **scored), store_result({DEV: 61.0}, **evaluated))
    [picture] = learning_section(make_content(*results, curves=curves)).pictures
    assert picture.commands == (
        "python train.py run_name=scored",
        "python train.py run_name=unscored evaluation=none",
    )
    overrides.write_text("- 'a")
    with pytest.raises(ResultError, match=r"unscored: .*is damaged"):
        read_learning_curves(tmp_path, strict=True)


def test_a_damaged_curve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write_metrics(tmp_path / "bad" / "metrics.csv", ",one,0.5,3.0")
    _write_metrics(tmp_path / "good" / "metrics.csv", ",1,0.5,3.0")
    with pytest.raises(ResultError, match=r"bad: .*\nruns=.*strict=false"):
        read_learning_curves(tmp_path, strict=True)
    [curve] = read_learning_curves(tmp_path, strict=False)
    assert curve.name == "good"
    assert "left out 1 learning curves" in caplog.text
