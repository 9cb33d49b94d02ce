"""How often a cheap search finds what scoring everything on everything finds.

Once every candidate has been scored on all pairs, any search can be replayed from the table
without a model, with as many pair orders as one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from embedllm.demonstrations.halving import run_halving
from embedllm.demonstrations.pair_order import build_pair_order

CLOSE: Final = 0.2
"""A winner counts as close when its full score is at most so many points below the best."""


@dataclass(frozen=True)
class Agreement:
    """How a schedule compares with exhaustive search, over many pair orders.

    Attributes:
        num_orders: Pair orders tried.
        same_winner: Share of them in which the search chose the best candidate of all.
        close: Share in which the choice was at most `CLOSE` points below the best.
        mean_regret: Points that the choice lies below the best, on average.
        max_regret: The same in the worst order.
        cost_ratio: Pairs scored, as a share of those of exhaustive search.
    """

    num_orders: int
    same_winner: float
    close: float
    mean_regret: float
    max_regret: float
    cost_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the statistics as JSON types."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def simulate(
    similarities: NDArray[np.float64],
    gold: Sequence[float],
    *,
    rungs: Sequence[int],
    keep: Sequence[int],
    seeds: Iterable[int],
    on_order: Callable[[], None] = lambda: None,
) -> Agreement:
    """Replays a search for many pair orders and compares its winners with the best candidate.

    Args:
        similarities: [num_candidates, num_pairs], pairs in file order.
        gold: Gold scores, in file order.
        rungs: Pairs of each round; the last is all.
        keep: Candidates that go on from each round but the last.
        seeds: One pair order for each.
        on_order: Called after each order, for a progress bar.
    """
    num_candidates, num_pairs = similarities.shape
    scores = np.asarray(gold, dtype=np.float64)
    full = spearman_rows(similarities, scores)
    regrets: list[float] = []
    costs: list[int] = []
    for seed in seeds:
        order = build_pair_order(gold, seed=seed)

        def score(
            candidates: Sequence[int], count: int, order: NDArray[np.int64] = order
        ) -> list[float]:
            if count == num_pairs:
                return [float(full[candidate]) for candidate in candidates]
            chosen = order[:count]
            part = similarities[np.array(candidates)[:, None], chosen]
            return [float(value) for value in spearman_rows(part, scores[chosen])]

        result = run_halving(num_candidates, rungs, keep, score=score)
        regrets.append(float(full.max() - full[result.winner]))
        costs.append(result.cost)
        on_order()
    found = np.array(regrets)
    return Agreement(
        num_orders=len(regrets),
        same_winner=float(np.mean(found == 0.0)),
        close=float(np.mean(found <= CLOSE)),
        mean_regret=float(found.mean()),
        max_regret=float(found.max()),
        cost_ratio=float(np.mean(costs)) / (num_candidates * num_pairs),
    )


def spearman_rows(
    similarities: NDArray[np.float64], gold: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns 100 x Spearman of every row with the gold scores, ties by average rank.

    The same numbers as `metrics.spearman` to rounding, for all rows at once: a simulation takes
    half a million of them. A NaN counts as 0, a constant row has the score 0.

    Args:
        similarities: [rows, N].
        gold: [N].
    """
    left = rankdata(np.nan_to_num(similarities, nan=0.0), axis=1)
    right = rankdata(gold)
    left -= left.mean(axis=1, keepdims=True)
    right -= right.mean()
    norms = np.sqrt((left * left).sum(axis=1) * (right * right).sum())
    products = left @ right
    scores = np.zeros(len(left))
    np.divide(products, norms, out=scores, where=norms > 0)
    return 100.0 * scores
