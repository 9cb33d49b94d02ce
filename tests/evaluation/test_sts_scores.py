from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from embedllm.errors import ConfigError
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.tasks import PAPER_TASKS, PairSubset, PairTask, load_tasks

MakeTask = Callable[[str, dict[str, tuple[Sequence[float], Sequence[float]]]], PairTask]

# Six pairs without ties: rho = 1 - 6 sum(d^2) / (6 * 35) = 1 - sum(d^2) / 35.
ORDER_2 = [0.2, 0.1, 0.3, 0.4, 0.5, 0.6]  # sum(d^2) = 2: 94.285714
ORDER_16 = [0.3, 0.4, 0.1, 0.2, 0.5, 0.6]  # sum(d^2) = 16: 54.285714
GOLD = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


class HashedWordsEncoder:
    """Bag of words in 64 hashed dimensions: meaningful similarities without any model."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(sentences))
        table = np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)
        # Python's own hash of strings changes from process to process.
        rows = [
            table[[sum(ord(c) * 31**i for i, c in enumerate(word)) % 4096 for word in words]]
            for words in (sentence.split() for sentence in sentences)
        ]
        return np.stack([row.sum(axis=0) for row in rows])


def test_all_differs_from_the_mean_over_subsets(scripted_encoder: Any, make_task: MakeTask) -> None:
    # Each subset is ranked perfectly, but the one with the higher gold scores gets the lower
    # similarities: ranks 4 5 6 1 2 3 against 1..6, every d = 3, rho = 1 - 6 * 54 / 210.
    subsets: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "low": ([0.7, 0.8, 0.9], [0.0, 1.0, 2.0]),
        "high": ([0.1, 0.2, 0.3], [3.0, 4.0, 5.0]),
    }
    task = make_task("t", subsets)
    paper = evaluate_sts(scripted_encoder, [task]).tasks[0]
    mean = evaluate_sts(scripted_encoder, [task], protocol="mteb").tasks[0]
    assert paper.score == round(100 * (1 - 324 / 210), 2) == -54.29
    assert mean.score == 100.0
    assert paper.subsets == mean.subsets == {"low": pytest.approx(100), "high": pytest.approx(100)}
    assert (paper.protocol, mean.protocol) == ("paper", "mteb")
    assert paper.num_examples == 6


def test_mean_protocol_weighs_subsets_alike(scripted_encoder: Any, make_task: MakeTask) -> None:
    # 54.285714 over six pairs and -100 over two: (54.285714 - 100) / 2 = -22.857143.
    task = make_task("t", {"six": (ORDER_16, GOLD), "two": ([0.9, 0.1], [1, 2])})
    score = evaluate_sts(scripted_encoder, [task], protocol="mteb").tasks[0]
    assert score.score == -22.86
    assert score.subsets["six"] == pytest.approx(100 * (1 - 16 / 35), abs=1e-9)
    assert score.subsets["two"] == pytest.approx(-100)


def test_average_is_the_mean_of_rounded_scores(scripted_encoder: Any, make_task: MakeTask) -> None:
    orders = [ORDER_2, ORDER_2, ORDER_16]
    tasks = [make_task(f"t{i}", {"all": (order, GOLD)}) for i, order in enumerate(orders)]
    result = evaluate_sts(scripted_encoder, tasks)
    assert [task.score for task in result.tasks] == [94.29, 94.29, 54.29]
    # 242.87 / 3 = 80.9567, whereas the exact values would give 80.9524.
    assert result.average == 80.96
    assert round(100 * (3 - 20 / 35) / 3, 2) == 80.95


def test_one_task_is_its_own_average(scripted_encoder: Any, make_task: MakeTask) -> None:
    result = evaluate_sts(scripted_encoder, [make_task("t", {"all": (ORDER_2, GOLD)})])
    assert result.average == result.tasks[0].score == 94.29


def test_every_distinct_sentence_is_encoded_once_in_order_of_appearance(
    scripted_encoder: Any,
) -> None:
    first = PairSubset(["x|a", "y|a"], ["x|0.5", "y|0.25"], [1.0, 2.0])
    second = PairSubset(["x|a", "y|0.25"], ["x|a", "z|0.75"], [3.0, 4.0])
    tasks = [PairTask("t1", {"s": first}), PairTask("t2", {"s": second, "r": first})]
    result = evaluate_sts(scripted_encoder, tasks)
    assert scripted_encoder.calls == [["x|a", "y|a", "x|0.5", "y|0.25", "z|0.75"]]
    assert (result.num_sentences, result.num_distinct) == (12, 5)


def test_shared_sentences_score_as_if_encoded_pair_by_pair() -> None:
    sentences = [f"word{i} word{i // 2} word{i % 3}" for i in range(12)]
    random = np.random.default_rng(3)
    left, right = random.choice(sentences, 40), random.choice(sentences, 40)
    gold = random.uniform(0, 5, 40)
    subset = PairSubset(left.tolist(), right.tolist(), gold.tolist())
    found = evaluate_sts(HashedWordsEncoder(), [PairTask("t", {"s": subset})])
    a, b = (HashedWordsEncoder().encode(side.tolist()).astype(float) for side in (left, right))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    # Without rounding, the plain formula breaks the ties of equal pairs by its last digit.
    expected = stats.spearmanr(cosines.round(12), gold).statistic
    assert found.num_distinct == len({*left, *right}) < 40
    assert found.tasks[0].score == round(100 * expected, 2)


def test_to_dict_is_json_ready_and_complete(scripted_encoder: Any, make_task: MakeTask) -> None:
    task = make_task("t", {"a": (ORDER_2, GOLD), "b": (ORDER_16, GOLD)})
    found = json.loads(json.dumps(evaluate_sts(scripted_encoder, [task]).to_dict()))
    entry = found["tasks"]["t"]
    assert found["averages"] == {"sts": entry["score"], "transfer": None}
    assert (found["timing"]["num_sentences"], found["timing"]["num_distinct"]) == (24, 24)
    assert (entry["num_examples"], entry["protocol"], entry["probe"]) == (12, "paper", None)
    assert entry["metric"] == "spearman"
    assert entry["details"]["subsets"] == {
        "a": pytest.approx(100 * (1 - 2 / 35)),
        "b": pytest.approx(100 * (1 - 16 / 35)),
    }


@pytest.mark.parametrize("num_tasks", [0, 2])
def test_no_task_or_one_twice_is_refused(
    scripted_encoder: Any, make_task: MakeTask, num_tasks: int
) -> None:
    tasks = [make_task("t", {"all": (ORDER_2, GOLD)})] * num_tasks
    with pytest.raises(ConfigError, match=r"evaluation\.tasks"):
        evaluate_sts(scripted_encoder, tasks)
    assert scripted_encoder.calls == []


@pytest.mark.parametrize("shape", [(11, 4), (13, 4), (12,)])
def test_wrong_encoder_output_is_refused(make_task: MakeTask, shape: tuple[int, ...]) -> None:
    class BrokenEncoder:
        def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
            return np.ones(shape, dtype=np.float32)

    with pytest.raises(ValueError, match=r"for 12 sentences, expected \[12, D\]"):
        evaluate_sts(BrokenEncoder(), [make_task("t", {"all": (ORDER_2, GOLD)})])


def test_a_collapsed_encoder_scores_zero(
    make_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    class CollapsedEncoder:
        def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
            return np.full((len(sentences), 3), np.nan, dtype=np.float32)

    with caplog.at_level(logging.WARNING):
        result = evaluate_sts(CollapsedEncoder(), [make_task("t", {"all": (ORDER_2, GOLD)})])
    assert result.average == 0.0
    assert "6 of 6 similarities are NaN" in caplog.text


def test_real_tasks_against_a_plain_loop(sts_data_dir: Path) -> None:
    tasks = load_tasks(PAPER_TASKS, data_dir=sts_data_dir)
    encoder = HashedWordsEncoder()
    result = evaluate_sts(encoder, tasks)
    sentences = {
        sentence
        for task in tasks
        for subset in task.subsets.values()
        for sentence in subset.sentence1 + subset.sentence2
    }
    assert len(encoder.calls) == 1
    assert sorted(encoder.calls[0]) == sorted(sentences)
    assert result.num_sentences == 2 * sum(task.num_pairs for task in tasks)
    expected = []
    for task in tasks:
        cosines: list[float] = []
        gold: list[float] = []
        for subset in task.subsets.values():
            a = HashedWordsEncoder().encode(subset.sentence1).astype(float)
            b = HashedWordsEncoder().encode(subset.sentence2).astype(float)
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines += ((a * b).sum(1) / norms).round(12).tolist()
            gold += subset.scores
        expected.append(round(100 * float(stats.spearmanr(cosines, gold).statistic), 2))
    assert [score.score for score in result.tasks] == expected
    assert min(expected) > 20
    assert result.average == round(sum(expected) / 7, 2)
    mean = evaluate_sts(encoder, tasks, protocol="mteb")
    for one, other in zip(result.tasks, mean.tasks, strict=True):
        assert (one.score != other.score) is (len(one.subsets) > 1)
