"""What a search leaves behind: ranking, summary, saved prompt, and how halving agrees."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from search_runs import (
    NUM_CANDIDATES,
    NUM_PAIRS,
    RUNGS,
    SCHEDULE,
    arguments,
    compose_search,
    notes,
    prompt_of,
    ranking,
    search,
    unit_times,
)
from tiny_runs import compose_typed, read_json

from embedllm.config import DemonstrationConfig, SearchConfig
from embedllm.demonstrations import search_command
from embedllm.demonstrations.search_command import draw_candidates, run_search
from embedllm.entry import CONF_DIR
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.tasks import load_task
from embedllm.invocation import Invocation
from embedllm.models.loading import load_encoder
from embedllm.report.searches import read_searches

pytestmark = pytest.mark.usefixtures("entry_process")


def test_both_searches_share_their_work(exhaustive: Path, finished: Path) -> None:
    before, after = unit_times(finished), unit_times(exhaustive)
    assert before.keys() <= after.keys()
    covered = [int(stop) - int(start) for _, start, stop in notes(exhaustive)]
    assert sum(covered) == (NUM_CANDIDATES + 1) * NUM_PAIRS


def test_full_scores_are_those_of_an_evaluation(
    candidates: Path, exhaustive: Path, tmp_path: Path
) -> None:
    config = compose_search(candidates, tmp_path)
    rows = ranking(exhaustive)
    task = load_task("sample-test", data_dir=None)
    for row in (rows[0], rows[-1]):
        encoder = load_encoder(
            config.model,
            prompt_of(config, row),
            tmp_path / "cache",
            device=search_command.resolve_device("cpu"),
        )
        [score] = evaluate_sts(encoder, [task]).tasks
        # Ties aside, the order of similarities is the same whatever was encoded together.
        assert float(row["score"]) == pytest.approx(score.score, abs=0.02)
    summary = read_json(exhaustive / "summary.json")
    assert summary["rungs"][0]["max"] == pytest.approx(float(rows[0]["score"]))
    assert float(rows[0]["score"]) - float(rows[-1]["score"]) > 5


def test_an_exhaustive_search_says_how_often_halving_agrees(
    exhaustive: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_json(finished / "summary.json")["agreement"] is None
    agreement = read_json(exhaustive / "summary.json")["agreement"]
    assert (agreement["rungs"], agreement["keep"]) == ([100, 200], [90])
    assert (agreement["num_orders"], agreement["same_winner"]) == (1000, 1.0)
    assert agreement["cost_ratio"] == 1.0


def test_the_halving_that_an_exhaustive_search_contains_agrees_with_its_table(
    candidates: Path, exhaustive: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(exhaustive, tmp_path / "run")
    folder = search(candidates, tmp_path, *SCHEDULE)
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()
    summary = read_json(folder / "summary.json")
    assert summary["agreement"]["rungs"] == RUNGS
    assert summary["cost"]["ratio"] == pytest.approx(summary["agreement"]["cost_ratio"])
    assert 0 < summary["agreement"]["same_winner"] < 1


def test_the_ranking_holds_every_candidate_once_best_first(finished: Path) -> None:
    rows = ranking(finished)
    assert sorted(int(row["candidate"]) for row in rows) == list(range(1, NUM_CANDIDATES + 1))
    assert [int(row["rank"]) for row in rows] == list(range(1, NUM_CANDIDATES + 1))
    keys = [(-int(row["rung"]), -float(row["score"])) for row in rows]
    assert keys == sorted(keys)
    assert [sum(row["pairs"] == str(n) for row in rows) for n in RUNGS] == [
        NUM_CANDIDATES - 10,
        6,
        4,
    ]
    assert all(row["score"] == row[f"score_{row['pairs']}"] for row in rows)
    assert rows[-1]["score_200"] == ""


def test_a_drawn_part_of_the_candidates_grows_and_keeps_their_order() -> None:
    found = [DemonstrationConfig(sentence=str(i), word=str(i)) for i in range(50)]
    drawn = [draw_candidates(found, number, seed=3) for number in (10, 25, 50, 80, None)]
    assert [len(part) for part in drawn] == [10, 25, 50, 50, 50]
    for smaller, larger in pairwise(drawn):
        assert [c for c in larger if c in smaller] == smaller
    assert drawn[-1] == found
    assert drawn[0] != found[:10]
    assert drawn[0] == draw_candidates(found, 10, seed=3) != draw_candidates(found, 10, seed=4)


def test_the_summary_says_what_was_found_and_what_it_cost(finished: Path) -> None:
    summary, rows = read_json(finished / "summary.json"), ranking(finished)
    kept = finished.parent / "results" / "searches"
    assert read_json(kept / "run.json") == summary
    # The report reads them side by side.
    [search] = read_searches(kept, strict=True)
    assert [c.number for c in search.candidates] == [int(row["candidate"]) for row in rows]
    assert summary["winner"]["candidate"] == int(rows[0]["candidate"])
    assert summary["winner"]["score"] == pytest.approx(float(rows[0]["score"]))
    first = summary["rungs"][0]
    scores = sorted(float(row["score_20"]) for row in rows)
    assert first["candidates"] == NUM_CANDIDATES
    assert (first["min"], first["max"]) == pytest.approx((scores[0], scores[-1]))
    assert first["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-3)
    above = sum(score > first["baseline"] for score in scores) / len(scores)
    assert first["above_baseline"] == pytest.approx(above, abs=1e-4)
    assert summary["cost"]["pairs"] == NUM_CANDIDATES * 20 + 10 * 40 + 4 * 140
    assert summary["cost"]["exhaustive_pairs"] == NUM_CANDIDATES * 200
    assert summary["gain"] == pytest.approx(summary["winner"]["score"] - summary["baseline"])
    assert (summary["task"], summary["dtype"]) == ("sample-test", "float32")
    assert summary["unit_seconds"] > 0
    assert summary["command"].startswith("python -m embedllm search model=tiny")


@pytest.fixture
def conf_dir(tmp_path: Path) -> Path:
    """A copy of conf/ that a test may write into."""
    return Path(shutil.copytree(CONF_DIR, tmp_path / "conf"))


def _search_saving(
    candidates: Path, tmp_path: Path, conf_dir: Path, name: str, **choices: str
) -> SearchConfig:
    config = compose_search(candidates, tmp_path, conf_dir)
    config.save_as = name
    overrides = arguments(candidates, tmp_path)[1:]
    run_search(config, Invocation(overrides, tmp_path / "run", conf_dir, choices))
    return config


def test_the_saved_prompt_is_an_option_that_gives_the_winner(
    candidates: Path, finished: Path, tmp_path: Path, conf_dir: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    config = _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")
    saved = conf_dir / "prompt" / "searched" / "tiny.yaml"
    assert saved.read_bytes() == (tmp_path / "run" / "prompt.yaml").read_bytes()
    overrides = ["model=tiny", "prompt=searched/tiny"]
    composed = compose_typed("evaluate", *overrides, conf_dir=conf_dir)
    assert composed.prompt == prompt_of(config, ranking(finished)[0])
    text = saved.read_text(encoding="utf-8")
    assert "# python evaluate.py model=tiny prompt=searched/tiny\n" in text
    assert str(tmp_path) not in text
    # A search may write its own file again, also with another outcome.
    _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")


def test_a_second_search_finds_a_second_demonstration(
    candidates: Path, finished: Path, tmp_path: Path, conf_dir: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")
    first = ranking(finished)[0]
    overrides = [*arguments(candidates, tmp_path)[1:], "prompt=searched/tiny"]
    overrides += ["search.max_candidates=3", "search.rungs=[200]", "search.keep=[]"]
    config = compose_typed("search", *overrides, conf_dir=conf_dir)
    run_search(config, Invocation(overrides, tmp_path / "second", conf_dir))
    rows = ranking(tmp_path / "second")
    assert len(rows) == 3
    text = (tmp_path / "second" / "prompt.yaml").read_text(encoding="utf-8")
    assert text.index(first["word"]) < text.index(rows[0]["word"])


def test_a_folder_that_cannot_be_written_costs_a_warning(
    candidates: Path,
    finished: Path,
    tmp_path: Path,
    conf_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(conf_dir / "prompt" / "searched")
    (conf_dir / "prompt" / "searched").write_text("a file where a folder should be")
    _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")
    [message] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"copy {tmp_path / 'run' / 'prompt.yaml'} there" in message
    assert "--config-dir" in message
    assert (tmp_path / "run" / "prompt.yaml").exists()
