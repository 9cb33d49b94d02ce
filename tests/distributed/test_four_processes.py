"""The same as with two processes, with four: more ranks than texts in the last batch.

Behind a marker, because four processes on two cores take their time:
`python -m pytest -m slow tests/distributed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from rank_jobs import (
    EXACT,
    STRATEGIES,
    TWO_NEGATIVES,
    Job,
    Outcome,
    difference,
    run_jobs,
    write_two_negatives,
)
from tiny_runs import read_weights, train_tiny

pytestmark = pytest.mark.slow

# Batches of 8 and, last, of 2 triplets: two ranks have no anchor of their own to score.
_STEPS = (*EXACT, "data.max_examples=10", "trainer.max_epochs=2", "trainer.max_steps=3")


CASES = {"one negative": (), "two negatives": TWO_NEGATIVES}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str, ...]]:
    path = write_two_negatives(tmp_path_factory.mktemp("data") / "two.csv")
    return {name: (*_STEPS, *case, *([path] if case else [])) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, cases: Mapping[str, tuple[str, ...]]
) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("alone")
    return {name: train_tiny(root / name, *case).adapter for name, case in cases.items()}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter before any step."""
    stop = ("trainer.max_steps=1", "trainer.learning_rate=1e-30")
    return train_tiny(tmp_path_factory.mktemp("start"), *_STEPS, *stop).adapter


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory, cases: Mapping[str, tuple[str, ...]]
) -> Mapping[str, Outcome]:
    jobs = [
        Job(f"{strategy}-{name}", (*case, f"strategy={strategy}"))
        for strategy in STRATEGIES
        for name, case in cases.items()
    ]
    return run_jobs(tmp_path_factory, "four", jobs, num_processes=4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_four_processes_train_what_one_trains(
    strategy: str,
    case: str,
    alone: Mapping[str, Path],
    start: Path,
    together: Mapping[str, Outcome],
) -> None:
    found = together[f"{strategy}-{case}"].weights
    assert difference(found, read_weights(alone[case]), start=read_weights(start)) < 1e-5
