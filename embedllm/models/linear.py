"""Linear layers in float32 on CPUs with AVX-512: through oneDNN instead of torch's default, MKL.

MKL uses the wide instructions on one maker's processors alone. On an AMD EPYC with AVX-512 its
products of 512 rows with SmolLM2-135M's weights ran at 100 GFLOP/s a core, oneDNN's at 225, forward
and backward; both round as float32 does and differ by 1e-6. torch carries oneDNN, but uses it by
itself for 16-bit products alone. Everywhere else (other types and devices, autocast, small
products) the usual kernel stays. The choice depends on the processor and the shapes, never on a
clock, so a run repeats itself bitwise.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Below so many multiplications a call costs more than it saves.
_MIN_PRODUCTS: Final = 2**21


class OneDnnLinear(nn.Linear):
    """A linear layer that multiplies with oneDNN where that is faster; the same weights."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the library's name)
        """Returns [..., O] for an input of [..., I]."""
        if not _is_fast(input, self.weight):
            return F.linear(input, self.weight, self.bias)
        rows = input.flatten(0, -2)
        if torch.is_grad_enabled():
            output = cast(Any, _Multiply).apply(rows, self.weight, self.bias)
        else:
            output = _multiply(rows, self.weight, self.bias)
        return cast(Tensor, output.view(*input.shape[:-1], -1))


def multiply(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns rows @ weight.T + bias the faster way, without a record for gradients.

    Args:
        rows: [..., I].
        weight: [O, I], of any strides.
        bias: [O].
    """
    if not is_onednn_faster() or not _is_fast(rows, weight):
        return F.linear(rows, weight, bias)
    product = _multiply(rows.flatten(0, -2), weight, bias)
    return product.view(*rows.shape[:-1], -1)


def use_onednn_linear(module: nn.Module) -> None:
    """Makes every plain linear layer inside a module one of the kind above, in place.

    Does nothing on a processor where it would not be faster.
    """
    if not is_onednn_faster():
        return
    for layer in module.modules():
        # Not subclasses: they have a forward of their own.
        if type(layer) is nn.Linear:
            layer.__class__ = OneDnnLinear


def is_onednn_faster() -> bool:
    """Whether this processor has the instructions that MKL leaves unused on some makers' chips."""
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_wide and torch.backends.mkldnn.is_available()


def _is_fast(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.dtype == weight.dtype == torch.float32
        and rows.device.type == weight.device.type == "cpu"
        and rows.dim() > 1
        and rows.numel() * len(weight) >= _MIN_PRODUCTS
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns rows @ weight.T + bias: [N, I] and [O, I], of any strides, to [N, O]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


class _Multiply(torch.autograd.Function):
    """The same with gradients, which are products of the same kind."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The rows are kept for the weight's gradient alone: none for a frozen base.
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight)
        return _multiply(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        return (
            _multiply(gradient, weight.t()) if for_rows else None,
            _multiply(gradient.t(), rows.t()) if for_weight else None,
            gradient.sum(dim=0) if for_bias else None,
        )
