"""Which rank computes which rows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from embedllm.distributed import split_evenly
from embedllm.models.row_shares import share_rows

_ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=30)


@given(_ROWS, st.integers(1, 8))
def test_every_row_is_computed_once_and_comes_back_to_its_place(
    rows: list[list[int]], num_ranks: int
) -> None:
    shares = share_rows(rows, num_ranks)
    assert sorted(row for part in shares.rows for row in part) == list(range(len(rows)))
    gathered = torch.tensor([[float(row)] for part in shares.rows for row in part])
    assert shares.to_batch_order(gathered).flatten().tolist() == list(range(len(rows)))


@given(_ROWS, st.integers(1, 8))
def test_no_rank_is_idle_while_there_are_rows(rows: list[list[int]], num_ranks: int) -> None:
    counts = share_rows(rows, num_ranks).counts
    assert len(counts) == num_ranks
    assert sum(count > 0 for count in counts) == min(len(rows), num_ranks)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 9))
def test_costs_are_even(costs: list[int], parts: int) -> None:
    ranges = split_evenly(costs, parts)
    assert [i for part in ranges for i in part] == list(range(len(costs)))
    if len(costs) >= parts:
        sums = [sum(costs[i] for i in part) for part in ranges]
        # No part is further from the mean than one item on either side.
        assert all(abs(total - sum(costs) / parts) <= 2 * max(costs) for total in sums)


def test_rows_that_begin_alike_stay_together() -> None:
    rows = [[first, 9, i] for i in range(10) for first in (1, 2)]
    shares = share_rows(rows, 2)
    assert [{rows[row][0] for row in part} for part in shares.rows] == [{1}, {2}]


def test_what_is_shared_costs_nothing() -> None:
    # A long beginning that many rows share is computed once: the many short rows weigh as much.
    alike = [[*range(50), 60 + i] for i in range(20)]
    others = [[200 + i, *range(100, 108)] for i in range(10)]
    counts = share_rows([*alike, *others], 2).counts
    assert counts[0] > 20
