"""Pooling against plain loops, on either padding side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embedllm.config import POOLINGS as CONFIG_POOLINGS
from embedllm.models.pooling import POOLINGS

ATOL_FLOAT32 = 1e-6
LENGTHS = [1, 4, 2, 5]
WIDTH = 3


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, WIDTH, generator=generator) for length in LENGTHS]


def padded(side: str, *, filler: float = 7.0) -> tuple[Tensor, Tensor]:
    """Returns states and mask; what stands at padding must not matter."""
    hidden = torch.full((len(LENGTHS), max(LENGTHS), WIDTH), filler)
    mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for i, row in enumerate(rows()):
        place = slice(0, len(row)) if side == "right" else slice(max(LENGTHS) - len(row), None)
        hidden[i, place], mask[i, place] = row, 1
    return hidden, mask


def by_hand(name: str, states: Tensor) -> list[float]:
    values = states.tolist()
    if name == "last":
        return list(values[-1])
    weights = [1.0] * len(values) if name == "mean" else [k + 1.0 for k in range(len(values))]
    return [
        sum(w * row[d] for w, row in zip(weights, values, strict=True)) / sum(weights)
        for d in range(WIDTH)
    ]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", POOLINGS)
def test_equals_a_plain_loop(name: str, side: str) -> None:
    expected = torch.tensor([by_hand(name, row) for row in rows()])
    torch.testing.assert_close(POOLINGS[name](*padded(side)), expected, atol=ATOL_FLOAT32, rtol=0)


def test_the_three_poolings_differ() -> None:
    results = [POOLINGS[name](*padded("right"))[1:] for name in ("last", "mean", "weighted_mean")]
    assert all((a - b).abs().max() > 0.1 for a in results for b in results if a is not b)


@pytest.mark.parametrize("filler", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", POOLINGS)
def test_states_at_padding_may_be_anything(name: str, filler: float) -> None:
    clean = POOLINGS[name](*padded("left"))
    torch.testing.assert_close(POOLINGS[name](*padded("left", filler=filler)), clean)


@pytest.mark.parametrize("name", POOLINGS)
def test_mask_of_any_type(name: str) -> None:
    hidden, mask = padded("right")
    expected = POOLINGS[name](hidden, mask)
    for dtype in (torch.bool, torch.float32, torch.int32):
        assert torch.equal(POOLINGS[name](hidden, mask.to(dtype)), expected)


@pytest.mark.parametrize("name", ["mean", "weighted_mean"])
def test_means_of_bfloat16_are_float32(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(1, 2000, WIDTH, generator=generator).to(torch.bfloat16)
    result = POOLINGS[name](hidden, torch.ones(1, 2000, dtype=torch.long))
    expected = torch.tensor([by_hand(name, hidden[0])])
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=ATOL_FLOAT32, rtol=0)
    rounded = expected.to(torch.bfloat16).float()
    assert (rounded - expected).abs().max() > 100 * ATOL_FLOAT32, "bfloat16 would show"


@pytest.mark.parametrize("name", POOLINGS)
def test_gradient_reaches_real_tokens_only(name: str) -> None:
    hidden, mask = padded("right")
    hidden.requires_grad_()
    POOLINGS[name](hidden, mask).sum().backward()
    assert hidden.grad is not None
    touched = hidden.grad.abs().sum(dim=-1) > 0
    if name == "last":
        assert torch.equal(touched.long().sum(dim=1), torch.ones(len(LENGTHS), dtype=torch.long))
        assert torch.equal(touched.long().argmax(dim=1), torch.tensor(LENGTHS) - 1)
    else:
        assert torch.equal(touched, mask.bool())


def test_config_and_table_know_the_same_names() -> None:
    assert set(CONFIG_POOLINGS) == set(POOLINGS)
