"""Alignment and uniformity: equal to the authors' definition, and recorded with STS-B."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from embedllm.evaluation.geometry import measure_geometry
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.tasks import PairSubset, PairTask

NUM = 1500  # more than one block of the matrix of distances


class _Encoder:
    """Random vectors, the same ones for the same sentence."""

    def encode(self, sentences: list[str]) -> np.ndarray:
        return np.stack([np.random.default_rng(len(s)).normal(size=8) for s in sentences])


def test_values_are_those_of_the_definition() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(NUM, 6)).astype(np.float32) * 7
    pairs = [(i, i + 1) for i in range(0, NUM - 1, 2)]
    gold = generator.choice([1.0, 3.8, 4.0, 5.0], size=len(pairs)).tolist()
    found = measure_geometry(vectors, pairs, gold)
    assert found is not None
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    close = [
        np.sum((unit[a] - unit[b]) ** 2) for (a, b), g in zip(pairs, gold, strict=True) if g >= 4
    ]
    assert found.alignment == pytest.approx(np.mean(close), abs=1e-4)
    potentials = [
        np.exp(-2 * np.sum((unit[i] - unit[i + 1 :]) ** 2, axis=1)).sum() for i in range(NUM)
    ]
    num_pairs = sum(1 for _ in combinations(range(NUM), 2))
    assert found.uniformity == pytest.approx(np.log(sum(potentials) / num_pairs), abs=1e-4)
    assert 0 < len(close) < len(pairs)


def test_extremes() -> None:
    same = measure_geometry(np.ones((3, 4)), [(0, 1)], [5.0])
    assert same is not None
    assert (same.alignment, same.uniformity) == (0.0, 0.0)
    opposite = measure_geometry(np.array([[1.0, 0.0], [-3.0, 0.0]]), [(0, 1)], [4.0])
    assert opposite is not None
    assert (opposite.alignment, opposite.uniformity) == (4.0, -8.0)


@pytest.mark.parametrize(
    ("vectors", "gold"),
    [
        (np.eye(2), [3.9]),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), [5.0]),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), [5.0]),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), [5.0]),
    ],
)
def test_none_where_they_mean_nothing(vectors: np.ndarray, gold: list[float]) -> None:
    assert measure_geometry(vectors, [(0, 1)], gold) is None


def test_one_sentence_has_no_uniformity() -> None:
    assert measure_geometry(np.ones((1, 2)), [(0, 0)], [5.0]) is None


def test_sts_b_has_them_of_its_own_sentences_alone() -> None:
    subset = PairSubset(["a", "aa", "a"], ["aaa", "aaaa", "aaaaa"], [5.0, 4.0, 1.0])
    other = PairSubset(["b" * 20], ["b" * 30], [5.0])
    tasks = [PairTask("STSBenchmark", {"test": subset}), PairTask("SICKRelatedness", {"t": other})]
    both = evaluate_sts(_Encoder(), tasks)
    alone = evaluate_sts(_Encoder(), tasks[:1])
    details = both.tasks[0].details
    vectors = _Encoder().encode(["a", "aa", "aaa", "aaaa", "aaaaa"])
    expected = measure_geometry(vectors, [(0, 2), (1, 3), (0, 4)], [5.0, 4.0, 1.0])
    assert expected is not None
    assert details["alignment"] == expected.alignment
    assert details["uniformity"] == expected.uniformity
    assert details == alone.tasks[0].details
    assert both.tasks[1].details.keys() == {"subsets"}
