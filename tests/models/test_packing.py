"""Packs: every row once, the budget respected, masks made from lengths."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedllm.models.packing import pack

# Id 0 is also what padding is filled with.
ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20), max_size=25)


@settings(deadline=None)
@given(rows=ROWS, max_tokens=st.integers(1, 60), side=st.sampled_from(["right", "left"]))
def test_every_row_exactly_once(rows: list[list[int]], max_tokens: int, side: str) -> None:
    packs = pack(rows, max_tokens=max_tokens, padding_side=side)
    found: dict[int, list[int]] = {}
    for p in packs:
        for ids, mask, row in zip(p.input_ids, p.attention_mask, p.rows.tolist(), strict=True):
            assert row not in found
            found[row] = ids[mask.bool()].tolist()
    assert [found[i] for i in range(len(rows))] == rows


@settings(deadline=None)
@given(rows=ROWS, max_tokens=st.integers(1, 60), side=st.sampled_from(["right", "left"]))
def test_masks_come_from_lengths(rows: list[list[int]], max_tokens: int, side: str) -> None:
    for p in pack(rows, max_tokens=max_tokens, padding_side=side):
        lengths = [len(rows[i]) for i in p.rows.tolist()]
        width = max(lengths)
        assert p.input_ids.shape == p.attention_mask.shape == (len(lengths), width)
        ones = [[1] * n + [0] * (width - n) for n in lengths]
        expected = ones if side == "right" else [line[::-1] for line in ones]
        assert p.attention_mask.tolist() == expected
        assert p.input_ids.dtype == p.attention_mask.dtype == torch.int64


@settings(deadline=None)
@given(rows=ROWS, max_tokens=st.integers(1, 60))
def test_budget_and_order(rows: list[list[int]], max_tokens: int) -> None:
    packs = pack(rows, max_tokens=max_tokens)
    for p in packs:
        assert p.input_ids.numel() <= max_tokens or len(p.rows) == 1
    for p, following in pairwise(packs):
        # Nothing fits that was left out, and the largest allocation comes first.
        assert (len(p.rows) + 1) * p.input_ids.shape[1] > max_tokens
        assert p.input_ids.shape[1] >= following.input_ids.shape[1]
    order = [row for p in packs for row in p.rows.tolist()]
    assert order == sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))


def test_an_id_equal_to_the_filler_is_a_real_token() -> None:
    (only,) = pack([[0, 0, 5], [0]], max_tokens=100)
    assert only.input_ids.tolist() == [[0, 0, 5], [0, 0, 0]]
    assert only.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_row_beyond_the_budget_is_alone() -> None:
    packs = pack([[1] * 3, [1] * 50, [1] * 3], max_tokens=8)
    assert [p.rows.tolist() for p in packs] == [[1], [0, 2]]


def test_similar_lengths_share_a_pack() -> None:
    rows = [[1] * 2, [1] * 9, [1] * 2, [1] * 10]
    packs = pack(rows, max_tokens=20)
    assert [p.rows.tolist() for p in packs] == [[3, 1], [0, 2]]
    assert sum(p.input_ids.numel() for p in packs) == 24, "one padded token instead of 17"


def test_no_rows_no_packs() -> None:
    assert pack([], max_tokens=8) == []


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_to_moves_all_tensors(device: str) -> None:
    (only,) = pack([[1, 2]], max_tokens=8)
    moved = only.to(torch.device(device))
    assert {t.device.type for t in (moved.input_ids, moved.attention_mask, moved.rows)} == {device}
