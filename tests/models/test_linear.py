"""Linear layers through oneDNN equal the usual ones, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from embedllm.models import linear
from embedllm.models.linear import OneDnnLinear, use_onednn_linear

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way for products of any size, on any processor."""
    monkeypatch.setattr(linear, "_MIN_PRODUCTS", 0)
    monkeypatch.setattr(linear, "is_onednn_faster", lambda: True)


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Returns a list that grows with every product of oneDNN."""
    calls: list[torch.Size] = []
    multiply = linear._multiply

    def counted(rows: Tensor, *arguments: Tensor | None) -> Tensor:
        calls.append(rows.shape)
        return multiply(rows, *arguments)

    monkeypatch.setattr(linear, "_multiply", counted)
    return calls


def build(num_in: int, num_out: int, *, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """Returns the usual layer and the same one with the fast way."""
    torch.manual_seed(0)
    usual = nn.Linear(num_in, num_out, bias=bias)
    fast = nn.Sequential(copy.deepcopy(usual))
    use_onednn_linear(fast)
    return usual, fast[0]  # type: ignore[return-value]


@needs_onednn
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (2, 3, 4, 12)])
def test_outputs_and_gradients_are_those_of_the_usual_layer(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], bias: bool
) -> None:
    usual, fast = build(12, 9, bias=bias)
    calls = count_products(monkeypatch)
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    weights = torch.randn(*shape[:-1], 9)
    for layer, rows in zip((usual, fast), inputs, strict=True):
        rows.requires_grad_()
        (layer(rows).square() * weights).sum().backward()
    assert len(calls) == 3, "one product forward, two backward"
    torch.testing.assert_close(fast(inputs[1]), usual(inputs[0]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-5, atol=1e-5)
    for found, expected in zip(fast.parameters(), usual.parameters(), strict=True):
        assert expected.grad is not None
        assert expected.grad.abs().max() > 0
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.usefixtures("always")
@given(
    num_rows=st.integers(1, 40),
    num_in=st.integers(1, 70),
    num_out=st.integers(1, 70),
    is_strided=st.booleans(),
)
def test_any_shape_and_stride(num_rows: int, num_in: int, num_out: int, is_strided: bool) -> None:
    usual, fast = build(num_in, num_out)
    rows = torch.randn(num_in, num_rows).t() if is_strided else torch.randn(num_rows, num_in)
    torch.testing.assert_close(fast(rows), usual(rows), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.usefixtures("always")
def test_a_frozen_layer_keeps_no_input_and_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, fast = build(12, 9)
    fast.requires_grad_(False)
    calls = count_products(monkeypatch)
    rows = torch.randn(5, 12, requires_grad=True)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        output = fast(rows)
    assert kept == [usual.weight.shape]
    output.sum().backward()
    assert len(calls) == 2
    assert fast.weight.grad is None


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("reason", ["bfloat16", "float64", "autocast", "vector"])
def test_the_usual_kernel_stays_where_it_is_right(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    _, fast = build(12, 9)
    calls = count_products(monkeypatch)
    rows = torch.randn(5, 12)
    if reason in ("bfloat16", "float64"):
        dtype = getattr(torch, reason)
        fast, rows = fast.to(dtype), rows.to(dtype)
    if reason == "vector":
        rows = rows[0]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reason == "autocast"):
        found, expected = fast(rows), F.linear(rows, fast.weight, fast.bias)
    assert torch.equal(found, expected)
    assert not calls


def test_small_products_keep_the_usual_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "is_onednn_faster", lambda: True)
    _, fast = build(12, 9)
    calls = count_products(monkeypatch)
    fast(torch.randn(5, 12))
    assert not calls


def test_only_plain_layers_change_and_only_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(3, 3), Special(3, 3), nn.LayerNorm(3))
    names = list(model.state_dict())
    monkeypatch.setattr(linear, "is_onednn_faster", lambda: False)
    use_onednn_linear(model)
    assert [type(layer) for layer in model] == [nn.Linear, Special, nn.LayerNorm]
    monkeypatch.setattr(linear, "is_onednn_faster", lambda: True)
    use_onednn_linear(model)
    assert [type(layer) for layer in model] == [OneDnnLinear, Special, nn.LayerNorm]
    assert list(model.state_dict()) == names
    assert isinstance(copy.deepcopy(model)[0], nn.Linear)
