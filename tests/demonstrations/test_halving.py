"""Pair order, successive halving and its simulation, against their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from embedllm.demonstrations.agreement import CLOSE, simulate, spearman_rows
from embedllm.demonstrations.halving import HalvingResult, run_halving
from embedllm.demonstrations.pair_order import build_pair_order
from embedllm.evaluation.metrics import spearman

TOLERANCE = 1e-9

gold_scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.25, 4.0, 5.0]), min_size=1, max_size=200)
seeds = st.integers(min_value=0, max_value=2**32 - 1)


# --- Pair order ---------------------------------------------------------------------------------


@given(gold=gold_scores, seed=seeds)
def test_the_order_is_a_permutation_that_the_seed_decides(gold: list[float], seed: int) -> None:
    order = build_pair_order(gold, seed=seed)
    assert sorted(order) == list(range(len(gold)))
    assert order.tolist() == build_pair_order(gold, seed=seed).tolist()


def test_other_seeds_give_other_beginnings() -> None:
    gold = [score / 100 for score in range(500)]
    beginnings = {tuple(sorted(build_pair_order(gold, seed=seed)[:50])) for seed in range(20)}
    assert len(beginnings) > 10


@given(num_bits=st.integers(1, 8), seed=seeds, data=st.data())
def test_every_beginning_is_balanced_over_the_ranks(
    num_bits: int, seed: int, data: st.DataObject
) -> None:
    # Distinct scores, so that ranks are plain; a power of two, so that parts are exact.
    gold = np.random.default_rng(0).permutation(2**num_bits).astype(float)
    order = build_pair_order(gold.tolist(), seed=seed)
    size = data.draw(st.integers(1, len(gold)))
    for level in range(num_bits + 1):
        part = len(gold) >> level
        counts = np.bincount((gold[order[:size]] // part).astype(int), minlength=2**level)
        assert counts.min() >= math.floor(size / 2**level)
        assert counts.max() <= math.ceil(size / 2**level)


@given(num_pairs=st.integers(2, 400), seed=seeds, data=st.data())
def test_beginnings_of_any_number_of_pairs_are_nearly_balanced(
    num_pairs: int, seed: int, data: st.DataObject
) -> None:
    order = build_pair_order(np.arange(float(num_pairs)).tolist(), seed=seed)
    size = data.draw(st.integers(1, num_pairs))
    low = data.draw(st.integers(0, num_pairs - 1))
    high = data.draw(st.integers(low + 1, num_pairs))
    inside = np.count_nonzero((order[:size] >= low) & (order[:size] < high))
    # Twice the discrepancy of van der Corput's sequence at each end (Niederreiter 1992, th. 3.6).
    assert abs(inside - size * (high - low) / num_pairs) <= 2 * math.log2(num_pairs) + 2


def test_equal_scores_do_not_stay_in_file_order() -> None:
    order = build_pair_order([1.0] * 64, seed=0)
    assert len({abs(int(a) - int(b)) for a, b in pairwise(order)}) > 8


# --- Halving ------------------------------------------------------------------------------------


@st.composite
def tournaments(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[int]]:
    """Scores [rungs, candidates] with many ties, growing rungs, shrinking keeps."""
    num_rungs = draw(st.integers(1, 4))
    num_candidates = draw(st.integers(1, 12))
    table = draw(arrays(np.int64, (num_rungs, num_candidates), elements=st.integers(0, 5)))
    rungs = sorted(draw(st.sets(st.integers(1, 99), min_size=num_rungs, max_size=num_rungs)))
    keep = draw(st.sets(st.integers(1, 15), min_size=num_rungs - 1, max_size=num_rungs - 1))
    return table, rungs, sorted(keep, reverse=True)


def halve(table: np.ndarray, rungs: Sequence[int], keep: Sequence[int]) -> HalvingResult:
    def score(candidates: Sequence[int], num_pairs: int) -> list[float]:
        return [float(table[rungs.index(num_pairs), c]) for c in candidates]

    return run_halving(table.shape[1], rungs, keep, score=score)


def survives(table: np.ndarray, keep: Sequence[int], candidate: int, rung: int) -> bool:
    """The definition: fewer than `keep` of those beside it in the round before are better."""
    if rung == 0:
        return True
    if not survives(table, keep, candidate, rung - 1):
        return False
    scores = table[rung - 1]
    better = [
        other
        for other in range(table.shape[1])
        if survives(table, keep, other, rung - 1)
        and (-scores[other], other) < (-scores[candidate], candidate)
    ]
    return len(better) < keep[rung - 1]


@given(tournaments())
def test_halving_follows_its_definition(
    tournament: tuple[np.ndarray, list[int], list[int]],
) -> None:
    table, rungs, keep = tournament
    result = halve(table, rungs, keep)
    last = {}
    for index, rung in enumerate(result.rungs):
        there = [c for c in range(table.shape[1]) if survives(table, keep, c, index)]
        assert list(rung.scores) == there
        assert rung.num_pairs == rungs[index]
        assert list(rung.scores.values()) == [float(table[index, c]) for c in there]
        last |= dict.fromkeys(there, index)
    assert result.cost == sum(rungs[index] for index in last.values())
    keys = [(-last[c], -table[last[c], c], c) for c in result.ranking]
    assert keys == sorted(keys)
    assert sorted(result.ranking) == list(range(table.shape[1]))


@given(tournaments())
def test_the_winner_of_one_round_is_the_best(
    tournament: tuple[np.ndarray, list[int], list[int]],
) -> None:
    table = tournament[0][:1]
    result = halve(table, [7], [])
    assert result.winner == int(np.argmax(table[0]))
    assert result.cost == 7 * table.shape[1]


def test_keeping_more_than_there_are_keeps_all() -> None:
    table = np.array([[3, 2, 1], [1, 2, 3]])
    assert halve(table, [2, 4], [90]).ranking == (2, 1, 0)


# --- Simulation ---------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    rows=arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.just(8)),
        elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, math.nan]),
    ),
    gold=arrays(np.float64, 8, elements=st.sampled_from([0.0, 1.0, 2.0, 5.0])),
)
def test_scores_of_many_rows_are_the_scores_of_each(rows: np.ndarray, gold: np.ndarray) -> None:
    expected = [100 * spearman(row, gold) for row in rows]
    assert spearman_rows(rows, gold) == pytest.approx(expected, abs=TOLERANCE)


def _random_table(num_candidates: int, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    gold = random.integers(0, 26, num_pairs) / 5
    noise = random.normal(size=(num_candidates, num_pairs))
    return gold + noise * np.linspace(2, 6, num_candidates)[::-1, None], gold


def test_a_simulation_is_the_same_search_done_by_hand() -> None:
    similarities, gold = _random_table(12, 90)
    rungs, keep, tried = [15, 40, 90], [6, 2], range(30)
    found = simulate(similarities, gold.tolist(), rungs=rungs, keep=keep, seeds=tried)
    full = [100 * stats.spearmanr(row, gold).statistic for row in similarities]
    regrets = []
    for seed in tried:
        order = build_pair_order(gold.tolist(), seed=seed)
        left = list(range(12))
        for num_pairs, num_kept in zip(rungs, [*keep, 1], strict=True):
            seen = order[:num_pairs]
            left.sort(key=lambda c: -spearman(similarities[c][seen], gold[seen]))
            left = left[:num_kept]
        regrets.append(max(full) - full[left[0]])
    # Some searches must have failed and some not, or the comparison says little.
    assert 0 < np.mean(np.array(regrets) < TOLERANCE) < 1
    assert found.num_orders == 30
    assert found.same_winner == pytest.approx(np.mean(np.array(regrets) < TOLERANCE))
    assert found.close == pytest.approx(np.mean(np.array(regrets) <= CLOSE))
    assert found.mean_regret == pytest.approx(np.mean(regrets))
    assert found.max_regret == pytest.approx(max(regrets))
    assert found.cost_ratio == pytest.approx((12 * 15 + 6 * 25 + 2 * 50) / (12 * 90))


def test_a_candidate_that_is_the_gold_itself_is_always_found() -> None:
    similarities, gold = _random_table(10, 64)
    similarities[7] = gold
    found = simulate(similarities, gold.tolist(), rungs=[16, 64], keep=[1], seeds=range(50))
    assert (found.same_winner, found.close) == (1.0, 1.0)
    assert (found.mean_regret, found.max_regret) == (0.0, 0.0)
    assert found.cost_ratio == pytest.approx((10 * 16 + 48) / 640)


def test_a_candidate_that_is_good_at_first_only_misleads_the_search() -> None:
    gold = np.arange(32.0)
    order = build_pair_order(gold.tolist(), seed=3)
    steady = gold.copy()
    # Worse than the other on the first eight pairs, by one swap.
    steady[order[:2]] = steady[order[:2]][::-1]
    deceptive = np.where(np.isin(np.arange(32), order[:8]), gold, -gold)
    found = simulate(
        np.stack([steady, deceptive]), gold.tolist(), rungs=[8, 32], keep=[1], seeds=[3]
    )
    regret = 100 * (
        stats.spearmanr(steady, gold).statistic - stats.spearmanr(deceptive, gold).statistic
    )
    assert found.same_winner == 0.0
    assert found.max_regret == pytest.approx(regret)
    assert regret > 50


def test_agreement_within_the_limit_counts_as_close() -> None:
    gold = np.arange(400.0)
    near = gold.copy()
    near[[0, 1]] = near[[1, 0]]
    found = simulate(np.stack([near, gold]), gold.tolist(), rungs=[2, 400], keep=[1], seeds=[0])
    # Both are perfect on two pairs that are no neighbours, so the first candidate is taken.
    assert found.same_winner == 0.0
    assert found.close == 1.0
    assert 0 < found.max_regret < CLOSE
