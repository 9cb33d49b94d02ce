"""Operations that keep on a CPU what others keep elsewhere: GPU kernels, quantised layers.

Fake tensors take the kernels of a CPU. These stand-ins are for counting memory alone; what they
return means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedllm.models import token_draws
from embedllm.models.dropout import FewBitsDropout


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """Dropout that keeps a mask of bytes, and norms in float32 under autocast.

    Functions are replaced for the length of the block: a mode of torch would not reach what is
    computed again in a backward pass.
    """
    usual: dict[str, Any] = {"dropout": F.dropout, "layer_norm": F.layer_norm}

    def drop(
        input: Tensor,  # noqa: A002 (the library's name)
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        return torch.native_dropout(input, p, train=True)[0] if training and p else input

    def norm(states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        states = states.float() if torch.is_autocast_enabled("cpu") else states
        return cast(Tensor, usual["layer_norm"](states, *arguments, **options))

    try:
        F.dropout, F.layer_norm = cast(Any, drop), cast(Any, norm)
        yield
    finally:
        for name, function in usual.items():
            setattr(F, name, function)


@contextmanager
def bare_hashes() -> Iterator[None]:
    """Tokens' numbers in place of their hashes, which are written over them.

    The memory is the same. The operations, a good part of a step's and each of them slow on fake
    tensors, are left out.
    """
    module: Any = token_draws
    usual = module.scramble
    try:
        module.scramble = Tensor.contiguous
        yield
    finally:
        module.scramble = usual


def use_stand_ins(module: nn.Module, *, kind: str, quantization: str) -> None:
    """Changes the layers of a fake model to those of the devices and of the quantisation.

    Args:
        module: The model, whose frozen linear layers are the ones that are quantised.
        kind: Kind of the devices.
        quantization: `model.quantization`.
    """
    for layer in module.modules():
        if type(layer) is FewBitsDropout and kind == "cuda":
            cast(nn.Module, layer).__class__ = nn.Dropout
        if (
            isinstance(layer, nn.Linear)
            and quantization != "none"
            and not layer.weight.requires_grad
        ):
            layer.__class__ = _QuantizedLinear
            of_integers = quantization == "int8" and kind == "cuda"
            cast(_QuantizedLinear, layer).of_integers = of_integers


class _QuantizedLinear(nn.Linear):
    """Takes the memory of quantised layers (`models/bitsandbytes_layers.py`).

    They make the whole matrix anew in each direction. bitsandbytes' product of whole numbers, for 8
    bits on a GPU, keeps its input too.
    """

    of_integers: bool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the library's name)
        multiply = cast(Any, _Multiply).apply
        output: Tensor = multiply(input, self.weight, self.bias, self.of_integers)
        return output


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, of_integers: bool
    ) -> Tensor:
        ctx.save_for_backward(rows if of_integers else None, weight)
        if bias is not None:
            bias = bias.to(rows.dtype)
        if not of_integers:
            return F.linear(rows, weight.to(rows.dtype, copy=True), bias)
        halves = rows.to(torch.float16, copy=True)
        integers = torch.empty_like(halves, dtype=torch.int8)
        product = rows.new_empty((*rows.shape[:-1], len(weight)), dtype=torch.int32)
        del halves, integers
        return product.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _, weight = ctx.saved_tensors
        return gradient @ weight.to(gradient.dtype, copy=True), None, None, None
