"""Dropout from few random bits: the rate, the scale, and the same draw when computed again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from embedllm.models import dropout
from embedllm.models.dropout import FewBitsDropout, draw_factors, use_few_bits_dropout


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_and_mean_are_those_of_dropout(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    num_entries = 400_000
    kept = FewBitsDropout(rate)(torch.ones(num_entries, dtype=dtype)).float()
    deviation = (rate * (1 - rate) / num_entries) ** 0.5
    assert abs(float((kept == 0).float().mean()) - rate) < 5 * deviation + 1 / 65536
    values = kept.unique()
    assert len(values) == 2
    assert float(values[1]) == pytest.approx(
        1 / (1 - rate), rel=4e-3 if dtype.itemsize == 2 else 1e-4
    )


def test_neighbours_that_share_a_random_number_are_independent() -> None:
    torch.manual_seed(0)
    dropped = draw_factors(torch.empty(100_000, 4), 65536 // 4).eq(0).double()
    correlation = torch.corrcoef(dropped.t()) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.02


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 65535))
def test_any_shape_and_the_expected_value(shape: list[int], num_dropped: int) -> None:
    factors = draw_factors(torch.empty(shape), num_dropped)
    assert factors.shape == torch.Size(shape)
    scale = 65536 / (65536 - num_dropped)
    assert all(value in (0.0, pytest.approx(scale)) for value in factors.flatten().tolist())


def test_gradient_goes_where_the_value_went() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 40, requires_grad=True)
    output = FewBitsDropout(0.5)(rows)
    output.sum().backward()
    assert 0 < int((output == 0).sum()) < rows.numel()
    torch.testing.assert_close(output, rows.detach() * rows.grad)


def test_a_recomputed_pass_draws_the_same() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), FewBitsDropout(0.5), nn.Linear(8, 1))
    found = []
    for again in (False, True):
        torch.manual_seed(3)
        rows = torch.ones(6, 8, requires_grad=True)
        output = checkpoint(layer, rows, use_reentrant=False) if again else layer(rows)
        output.sum().backward()
        found.append(rows.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("case", ["evaluation", "no dropout", "all"])
def test_nothing_is_drawn_where_nothing_is_left_to_chance(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(dropout, "draw_factors", lambda *arguments: pytest.fail("drawn"))
    layer = FewBitsDropout({"evaluation": 0.5, "no dropout": 0.0, "all": 1.0}[case])
    layer.train(case != "evaluation")
    rows = torch.randn(3, 4)
    assert torch.equal(layer(rows), rows * (case != "all"))


def test_only_plain_dropout_changes() -> None:
    class Special(nn.Dropout):
        pass

    model = nn.Sequential(nn.Dropout(0.1), Special(0.1))
    use_few_bits_dropout(model)
    assert [type(layer) for layer in model] == [FewBitsDropout, Special]
    assert model[0].p == 0.1
