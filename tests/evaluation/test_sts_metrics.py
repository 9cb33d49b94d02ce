from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedllm.evaluation.metrics import cosine_similarity_pairs, spearman

# float64 against exact fractions or float64 of another library.
FLOAT64_TOLERANCE = 1e-12
# torchmetrics adds an epsilon to the denominator (1e-6), whatever the dtype.
TORCHMETRICS_TOLERANCE = 1e-5

# Few distinct values, so that ties and constant vectors are frequent.
tied_vectors = st.integers(1, 25).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(-3, 3), min_size=size, max_size=size),
        st.lists(st.sampled_from([0.0, 0.25, 1 / 3, 5.0]), min_size=size, max_size=size),
    )
)


def rank(values: Sequence[float]) -> list[Fraction]:
    """Returns average ranks from their definition: values below, plus half of the tied ones."""
    return [
        Fraction(sum(other < value for other in values))
        + Fraction(sum(other == value for other in values) + 1, 2)
        for value in values
    ]


def spearman_by_definition(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns Pearson's correlation of the average ranks, exact up to the final root."""
    ranks = rank(x), rank(y)
    first, second = ([r - Fraction(len(x) + 1, 2) for r in side] for side in ranks)
    covariance = sum(a * b for a, b in zip(first, second, strict=True))
    variances = sum(a * a for a in first) * sum(b * b for b in second)
    return 0.0 if variances == 0 else float(covariance) / math.sqrt(variances)


@given(tied_vectors)
@settings(deadline=None)
def test_spearman_equals_its_definition(vectors: tuple[list[int], list[float]]) -> None:
    x, y = vectors
    expected = spearman_by_definition(x, y)
    assert spearman(x, y) == pytest.approx(expected, abs=FLOAT64_TOLERANCE)


@given(tied_vectors)
@settings(deadline=None)
def test_spearman_depends_on_order_only(vectors: tuple[list[int], list[float]]) -> None:
    x, y = vectors
    value = spearman(x, y)
    assert spearman([math.exp(v) for v in x], y) == pytest.approx(value, abs=FLOAT64_TOLERANCE)
    assert spearman([-v for v in x], y) == pytest.approx(-value, abs=FLOAT64_TOLERANCE)
    assert spearman(y, x) == pytest.approx(value, abs=FLOAT64_TOLERANCE)


def test_spearman_of_a_hand_ranked_example() -> None:
    # Ranks of x: 1, 2.5, 2.5, 4; of y: 2, 1, 3, 4. Centred: -1.5 0 0 1.5 and -0.5 -1.5 0.5 1.5.
    # Covariance 0.75 + 2.25 = 3; variances 4.5 and 5; 3 / sqrt(22.5).
    assert spearman([0.1, 0.3, 0.3, 0.9], [2, 1, 3, 4]) == pytest.approx(3 / math.sqrt(22.5))


@pytest.mark.parametrize(
    ("x", "y", "what"),
    [
        ([0.5, 0.5, 0.5], [1, 2, 3], "similarities"),
        ([0.1, 0.2, 0.3], [2, 2, 2], "gold scores"),
        ([0.1], [1], "similarities"),
    ],
)
def test_constant_vectors_score_zero_with_a_warning(
    caplog: pytest.LogCaptureFixture, x: list[float], y: list[float], what: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert spearman(x, y) == 0.0
    assert f"{what} are equal" in caplog.text


def test_nan_similarities_count_as_zero_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    gold = [1, 2, 3, 4]
    with caplog.at_level(logging.WARNING):
        value = spearman([-0.5, math.nan, 0.5, math.nan], gold)
    assert value == spearman([-0.5, 0.0, 0.5, 0.0], gold)
    assert value != 0.0
    assert "2 of 4 similarities are NaN" in caplog.text


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]]), ([1, 2], [1, np.nan])]
)
def test_spearman_refuses_what_has_no_meaning(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match=r"vectors of one length|contain NaN"):
        spearman(x, y)


@pytest.mark.parametrize("num_distinct", [5, 10_000])
def test_spearman_agrees_with_torchmetrics(num_distinct: int) -> None:
    import torch
    from torchmetrics.regression import SpearmanCorrCoef

    random = np.random.default_rng(0)
    gold = random.integers(0, num_distinct, size=1000) / num_distinct * 5
    similarities = np.round(gold / 5 + random.normal(scale=0.5, size=1000), 2)
    metric = SpearmanCorrCoef()
    metric.update(torch.tensor(similarities), torch.tensor(gold))
    expected = float(metric.compute())
    assert 0.1 < expected < 0.9
    assert spearman(similarities, gold) == pytest.approx(expected, abs=TORCHMETRICS_TOLERANCE)


def test_cosine_is_computed_in_float64() -> None:
    random = np.random.default_rng(1)
    # More rows than one chunk, and a common offset, which leaves few digits to float32.
    a, b = (
        (100 + random.normal(size=(2500, 8))).astype(np.float32),
        (100 + random.normal(size=(2500, 8))).astype(np.float32),
    )
    found = cosine_similarity_pairs(a, b)
    expected = np.array(
        [
            math.fsum(float(u) * float(v) for u, v in zip(left, right, strict=True))
            / math.hypot(*left.tolist())
            / math.hypot(*right.tolist())
            for left, right in zip(a, b, strict=True)
        ]
    )
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT64_TOLERANCE)
    in_float32 = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.abs(in_float32 - expected).max() > 1e3 * FLOAT64_TOLERANCE


def test_zero_vectors_have_similarity_zero() -> None:
    a = np.array([[0, 0], [3, 4], [0, 0], [3, 4]], dtype=np.float32)
    b = np.array([[1, 2], [0, 0], [0, 0], [4, 3]], dtype=np.float32)
    np.testing.assert_allclose(cosine_similarity_pairs(a, b), [0, 0, 0, 24 / 25])


def test_infinite_and_nan_rows_become_nan_without_touching_others() -> None:
    a = np.array([[np.inf, 0], [np.nan, 1], [1, 0]], dtype=np.float32)
    b = np.ones((3, 2), dtype=np.float32)
    found = cosine_similarity_pairs(a, b)
    assert np.isnan(found).tolist() == [True, True, False]
    assert found[2] == pytest.approx(math.sqrt(0.5))


rows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 70)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@given(rows, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_equal_rows_are_exactly_one_and_order_does_not_matter(a: np.ndarray, seed: int) -> None:
    b = np.random.default_rng(seed).normal(size=a.shape).astype(np.float32)
    same = cosine_similarity_pairs(a, a.copy())
    assert same.tolist() == np.where(np.any(a != 0, axis=1), 1.0, 0.0).tolist()
    there, back = cosine_similarity_pairs(a, b), cosine_similarity_pairs(b, a)
    assert there.tolist() == back.tolist()
    assert np.abs(there).max() <= 1 + FLOAT64_TOLERANCE


@pytest.mark.parametrize(("a", "b"), [((2, 3), (3, 3)), ((3,), (3,)), ((2, 3), (2, 4))])
def test_cosine_refuses_other_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        cosine_similarity_pairs(np.ones(a, np.float32), np.ones(b, np.float32))
