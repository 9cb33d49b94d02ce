"""Several processes that share the sentences of an evaluation give the scores of one."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from rank_jobs import STRATEGIES, Job, Outcome, run_jobs
from tiny_runs import read_json, train_tiny

_SCORED = (
    "trainer.max_steps=2",
    "evaluation.dev_every_n_steps=1",
    "adapter.options.lora_dropout=0",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("alone")
    train_tiny(root, *_SCORED)
    return root / "run"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    jobs = [Job(strategy, (*_SCORED, f"strategy={strategy}")) for strategy in STRATEGIES]
    return run_jobs(tmp_path_factory, "scores", jobs)


def _dev_scores(run: Path) -> list[float]:
    [metrics] = sorted((run / "logs").glob("*/metrics.csv"))
    with metrics.open(encoding="utf-8") as file:
        return [
            float(row["dev/sample-dev"]) for row in csv.DictReader(file) if row["dev/sample-dev"]
        ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_while_training(strategy: str, alone: Path, together: Mapping[str, Outcome]) -> None:
    expected = _dev_scores(alone)
    assert len(expected) == 2
    np.testing.assert_allclose(_dev_scores(together[strategy].run), expected, atol=0.01)


@pytest.mark.parametrize("name", ["before", "after"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_before_and_after(
    strategy: str, name: str, alone: Path, together: Mapping[str, Outcome]
) -> None:
    expected, found = (
        read_json(run / "results" / f"{name}.json") for run in (alone, together[strategy].run)
    )
    assert found["averages"] == pytest.approx(expected["averages"], abs=0.01)


def test_one_record_for_all_ranks(together: Mapping[str, Outcome]) -> None:
    records = [read_json(path) for path in (together["ddp"].folder / "store").rglob("*.json")]
    assert sorted(bool(record["adapter"]) for record in records) == [False, True]
