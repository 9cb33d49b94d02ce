"""Linear layers of bitsandbytes, made to give the same numbers whenever they run.

On CUDA devices the library's kernels multiply. On a CPU the weight is restored and multiplied as
any other, for there the library (0.50)

- restores 4-bit weights wrongly whose rows are no multiple of 64 long,
- rounds to bfloat16 and repacks the weight in the first evaluation pass on processors with
  AVX512-BF16, so that training and evaluation differ and a checksum of the weights changes,
- rounds inputs of 8-bit layers in evaluation but not in training.

Anywhere it casts a layer's bias, for good, to the type of an input in another type, such as
autocast gives; here inputs always come in the layer's own.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from embedllm.models.linear import multiply


class Nf4Linear(bnb.nn.Linear4bit):  # type: ignore[misc]
    """A linear layer whose weight is kept in 4 bits, with double quantisation (QLoRA).

    Args:
        weight: [O, I], quantised here.
        bias: The bias, kept as it is.
        dtype: Type in which it computes.
        device: Where it goes.
    """

    def __init__(
        self, weight: Tensor, bias: nn.Parameter | None, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(
            weight.shape[1],
            weight.shape[0],
            bias=bias is not None,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        self.bias = bias
        self.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=self
        ).to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [..., O] for an input of [..., I], in its type."""
        return _forward(self, super().forward, x)

    def restored(self) -> Tensor:
        """Returns the weight that the 4 bits stand for, [O, I]."""
        state = copy.copy(self.weight.quant_state)
        # As one long row: the library takes each row for the beginning of a new block.
        state.shape = torch.Size([1, self.out_features * self.in_features])
        weight: Tensor = bnb.functional.dequantize_4bit(self.weight.data, state)
        return weight.view(self.out_features, self.in_features)


class Int8Linear(bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """A linear layer whose weight is kept in 8 bits (LLM.int8, Dettmers et al. 2022).

    On CUDA devices inputs are rounded to 8 bits too, but for columns that hold a number above 6.

    Args:
        weight: [O, I], quantised here.
        bias: The bias, kept as it is.
        dtype: Type in which it computes.
        device: Where it goes.
    """

    def __init__(
        self, weight: Tensor, bias: nn.Parameter | None, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(
            weight.shape[1],
            weight.shape[0],
            bias=bias is not None,
            has_fp16_weights=False,
            threshold=6.0,
            device="meta",
        )
        self.compute_dtype = dtype
        self.bias = bias
        # The library quantises on the way from the host, and only then.
        self.weight = bnb.nn.Int8Params(
            weight.cpu(), requires_grad=False, has_fp16_weights=False
        ).to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [..., O] for an input of [..., I], in its type."""
        return _forward(self, super().forward, x)

    def restored(self) -> Tensor:
        """Returns the weight that the 8 bits stand for, [O, I]."""
        scales = self.state.SCB if self.weight.SCB is None else self.weight.SCB
        weight = bnb.functional.int8_vectorwise_dequant(self.weight.data, scales)
        return cast(Tensor, weight.to(self.compute_dtype))


def _forward(layer: Any, on_cuda: Any, x: Tensor) -> Tensor:
    rows = x.to(layer.compute_dtype)
    output = on_cuda(rows) if rows.is_cuda else cast(Any, _OnHost).apply(rows, layer)
    return cast(Tensor, output.to(x.dtype))


class _OnHost(torch.autograd.Function):
    """A product with a restored weight, which is not kept but restored again for its gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return multiply(rows, layer.restored(), layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return multiply(gradient, ctx.layer.restored().to(gradient.dtype).t()), None
