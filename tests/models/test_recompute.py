"""Functions that run again in the backward pass: gradients, random numbers, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedllm.models.recompute import recomputed


def build(seed: int = 0) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(6, 4), torch.randn(5, 6, requires_grad=True)


def test_gradients_of_parameters_and_inputs() -> None:
    found = []
    for again in (False, True):
        layer, rows = build()
        used = rows * 2

        def run(inputs: Sequence[Tensor], layer: nn.Linear = layer) -> Tensor:
            return layer(inputs[0]).tanh()

        outputs = [
            recomputed(run, [used], list(layer.parameters())) if again else run([used])
            for _ in range(3)
        ]
        torch.cat(outputs).square().sum().backward()
        found.append([rows.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one)


def test_a_frozen_parameter_and_an_unused_one_get_none() -> None:
    layer, rows = build()
    layer.weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(2))
    recomputed(
        lambda inputs: layer(inputs[0]), [rows], [*layer.parameters(), unused]
    ).sum().backward()
    assert layer.weight.grad is None
    assert unused.grad is None
    assert layer.bias.grad is not None


def test_the_same_numbers_are_drawn_and_the_generator_goes_on() -> None:
    rows = torch.ones(200, requires_grad=True)
    torch.manual_seed(1)
    output = recomputed(lambda inputs: F.dropout(inputs[0], 0.5), [rows], [])
    after = torch.rand(1)
    state = torch.get_rng_state()
    output.sum().backward()
    assert torch.equal(rows.grad, output.detach())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    F.dropout(rows, 0.5)
    assert torch.equal(torch.rand(1), after)


def test_hooks_of_a_parameter_run_once() -> None:
    """As a distributed strategy needs it: one whole gradient at the end."""
    layer, rows = build()
    calls: list[int] = []
    layer.weight.register_post_accumulate_grad_hook(lambda parameter: calls.append(1))
    parts = [
        recomputed(lambda inputs: layer(inputs[0]), [rows], list(layer.parameters()))
        for _ in range(4)
    ]
    torch.cat(parts).sum().backward()
    assert calls == [1]


def test_nothing_is_kept_but_the_inputs() -> None:
    layer, rows = build()
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        recomputed(lambda inputs: layer(inputs[0]).exp().exp(), [rows], list(layer.parameters()))
    assert set(kept) <= {rows.untyped_storage().data_ptr()}


@pytest.mark.parametrize("is_on", [False, True])
def test_autocast_is_as_it_was(is_on: bool) -> None:
    layer, rows = build()
    dtypes: list[torch.dtype] = []

    def run(inputs: Sequence[Tensor]) -> Tensor:
        dtypes.append(layer(inputs[0]).dtype)
        return layer(inputs[0]).float()

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_on):
        output = recomputed(run, [rows], list(layer.parameters()))
    output.sum().backward()
    assert dtypes == [torch.bfloat16 if is_on else torch.float32] * 2
    assert layer.weight.grad is not None


def test_without_gradient_it_is_the_function_alone() -> None:
    layer, rows = build()
    with torch.no_grad():
        output = recomputed(lambda inputs: layer(inputs[0]), [rows], list(layer.parameters()))
    assert torch.equal(output, layer(rows).detach())
    assert not output.requires_grad
