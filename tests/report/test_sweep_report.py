"""The page of a sweep: its table, the spread over seeds, the curve, failures and their reasons."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from report_pages import find_table
from report_records import seven
from stored_results import make_record
from tiny_runs import compose_train, restored_logging

from embedllm import cli
from embedllm.errors import ResultError
from embedllm.files import write_json
from embedllm.report.sweep_page import build_sweep_page
from embedllm.report.sweep_runs import read_sweep


def _write_run(
    sweep: Path,
    *overrides: str,
    after: float | None = None,
    scores: dict[str, float] | None = None,
    dev: float | None = None,
) -> Path:
    """Writes the files of a run that began; with a score after training, of a finished one."""
    config = compose_train("debug=tiny", "sweep_name=s", *overrides)
    run = sweep / config.run_name
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["sweep=x", *overrides]))
    write_json(run / "run.json", {"config": asdict(config)})
    write_json(run / "results" / "before.json", make_record(scores, sts=50.0))
    if after is not None:
        write_json(run / "results" / "after.json", make_record(scores, sts=after))
        write_json(run / "adapter" / "embedllm.json", {"training": {"dev_score": dev}})
        write_json(run / "outcome.json", {"seconds": 61.0})
    return run


def _page(sweep: Path) -> str:
    return build_sweep_page(read_sweep(sweep), [], has_picture=False)


def _report(*overrides: str) -> None:
    with restored_logging():
        cli.main(["report", *overrides])


def _section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_one_row_for_each_run_in_the_order_of_its_values(tmp_path: Path) -> None:
    for rank, score in ((16, 61.0), (4, 60.0), (128, 62.5)):
        _write_run(tmp_path, f"adapter.options.r={rank}", after=score, dev=score + 1)
    # A run of the same sweep that was given the default's value without a word.
    _write_run(tmp_path, after=61.5, dev=70.0)
    rows = find_table(_page(tmp_path), "adapter.options.r", "run", "dev")
    assert [row[0] for row in rows] == ["4", "16", "64", "128"]
    assert rows[0][2:] == ["61.00", "50.00", "60.00", "+10.00", "0:01:01"]
    assert "Mean over seeds" not in _page(tmp_path)


def test_what_changes_no_result_is_shown_where_it_was_swept(tmp_path: Path) -> None:
    for strategy in ("single", "ddp"):
        swept = (f"strategy={strategy}", "swept_keys=[strategy,seed]", "logger=csv")
        for seed in (1, 2):
            _write_run(tmp_path, *swept, f"seed={seed}", after=60.0)
    page = _page(tmp_path)
    assert "Varied: `seed`, `strategy`." in page
    rows = find_table(_section(page, "Mean over seeds"), "strategy", "seeds")
    assert [row[:2] for row in rows] == [["ddp", "2"], ["single", "2"]]


def test_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    scores = {"plain": [60.0, 61.0, 63.0], "prompteol": [65.0]}
    for prompt, values in scores.items():
        for seed, score in enumerate(values):
            _write_run(tmp_path, f"prompt={prompt}", f"seed={seed}", after=score, dev=2 * score)
    _write_run(tmp_path, "prompt=plain", "seed=9")
    rows = find_table(_section(_page(tmp_path), "Mean over seeds"), "prompt", "seeds")
    deviation = statistics.stdev(scores["plain"])
    assert rows[0] == [
        "plain",
        "3",
        f"{2 * statistics.fmean(scores['plain']):.2f} ± {2 * deviation:.2f}",
        "50.00 ± 0.00",
        f"{statistics.fmean(scores['plain']):.2f} ± {deviation:.2f}",
    ]
    assert rows[1] == ["prompteol", "1", "130.00", "50.00", "65.00"]


def test_what_failed_and_what_is_not_finished(tmp_path: Path) -> None:
    _write_run(tmp_path, "seed=1", after=60.0)
    failed = _write_run(tmp_path, "seed=2")
    reason = "no room | <on> the *disk*"
    failure = {"error": "E", "message": reason, "exit_code": 2, "finished": "2026-01-01T00:00:00Z"}
    write_json(failed / "failure.json", failure)
    stopped = _write_run(tmp_path, "seed=3")
    (stopped / "checkpoints").mkdir()
    for step in (2, 4):
        (stopped / "checkpoints" / f"step-{step:06d}.ckpt").touch()
    running = _write_run(tmp_path, "seed=4")
    with FileLock(running / ".lock"):
        page = _page(tmp_path)
    assert "4 runs: 1 done, 1 running, 1 failed, 1 stopped. Varied: `seed`." in page
    assert find_table(page, "seed", "run", "why") == [["2", failed.name, reason]]
    assert find_table(page, "seed", "run", "state") == [
        ["3", stopped.name, "stopped without a message", "step-000004"],
        ["4", running.name, "running", "none"],
    ]


def _write_sizes(sweep: Path, models: Sequence[str], **record: Any) -> None:
    for number, model in enumerate(models):
        _write_run(sweep, f"model={model}", after=70.0 + number, **record)


def test_the_curve_beside_the_published_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ("opt-350m", "opt-125m", "opt-1.3b")
    _write_sizes(tmp_path / "sizes", models, scores=seven(70.0))
    _report("sweep=sizes", f"paths.output_dir={tmp_path}")
    page = capsys.readouterr().out
    assert (tmp_path / "sizes" / "report.md").read_text("utf-8") == page
    picture = (tmp_path / "sizes" / "scaling.svg").read_bytes()
    assert "![Score against parameters](scaling.svg)" in page
    rows = find_table(page, "curve", "parameters (millions)")
    own = [row[1:] for row in rows if row[0] == "fine-tuned"]
    # Hugging Face's OPT without the head, tied to its table: 125.2, 331.2 and 1,315.8 million.
    assert own == [["125.2", "71.00"], ["331.2", "70.00"], ["1,315.8", "72.00"]]
    published = [row[1:] for row in rows if row[0] == "published: OPT, not fine-tuned"]
    assert len(published) == 8
    assert (published[0], published[-1]) == (["125.0", "67.00"], ["66,000.0", "68.84"])
    for name in (b"published: OPT, fine-tuned", b"before training", b"parameters"):
        assert name in picture
    _report(f"sweep={tmp_path / 'sizes'}")
    assert (tmp_path / "sizes" / "scaling.svg").read_bytes() == picture
    assert capsys.readouterr().out == page


def test_scores_of_other_tasks_stand_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_sizes(tmp_path / "sizes", ("opt-125m", "opt-350m"))
    _report("sweep=sizes", f"paths.output_dir={tmp_path}")
    page = capsys.readouterr().out
    rows = find_table(page, "curve", "parameters (millions)")
    assert {row[0] for row in rows} == {"before training", "fine-tuned"}
    assert "The published curve is over the paper's seven STS tasks" in page


def test_without_matplotlib_there_is_a_page_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    _write_sizes(tmp_path / "sizes", ("opt-125m", "opt-350m"))
    _report("sweep=sizes", f"paths.output_dir={tmp_path}")
    answer = capsys.readouterr()
    assert "no picture without matplotlib; pip install 'embedllm[report]' brings it" in answer.err
    assert "scaling.svg" not in answer.out
    assert find_table(answer.out, "curve")


def test_no_such_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, restored_logging():
        cli.main(["report", "sweep=nowhere", f"paths.output_dir={tmp_path}"])
    assert caught.value.code == 2
    assert f"there is no sweep {tmp_path}/nowhere" in capsys.readouterr().err
    with pytest.raises(ResultError, match="there are no runs in"):
        read_sweep(tmp_path)
