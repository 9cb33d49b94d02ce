"""The rate at which this machine multiplies matrices: what no step can exceed for long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.utils.benchmark import Timer

from embedllm.models.linear import use_onednn_linear

# Smaller ones do not fill the cores or multiprocessors.
_SQUARES: Final = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_MIN_SECONDS: Final = 0.3
# Where one product takes so long, a larger one is no faster.
_LONG_SECONDS: Final = 0.5


@dataclass(frozen=True)
class MatrixProduct:
    """A product of matrices [rows, inner] and [inner, columns], and its rate."""

    rows: int
    inner: int
    columns: int
    flops_per_second: float

    @property
    def name(self) -> str:
        """The three sizes."""
        return f"{self.rows} x {self.inner} x {self.columns}"


@dataclass(frozen=True)
class Ceiling:
    """The measured products of one type on one device."""

    dtype: str
    products: tuple[MatrixProduct, ...]

    @property
    def best(self) -> MatrixProduct:
        """The fastest product, whose rate is the ceiling."""
        return max(self.products, key=lambda product: product.flops_per_second)


def measure_ceiling(
    device: torch.device, dtype: torch.dtype, *, model_shape: tuple[int, int, int]
) -> Ceiling:
    """Returns the rates of some square products and of one with the sizes of a model.

    Each is warmed up and timed for a few tenths of a second with the process's own number of
    threads; its rate is that of the median.

    Args:
        device: Where to multiply.
        dtype: Type of the matrices.
        model_shape: Tokens of a forward pass, input and output width of the largest layer.
    """
    shapes = [model_shape, *((size, size, size) for size in _SQUARES[device.type])]
    products = []
    for rows, inner, columns in shapes:
        seconds = _time_product(rows, inner, columns, device, dtype)
        rate = 2 * rows * inner * columns / seconds
        products.append(MatrixProduct(rows, inner, columns, rate))
        if seconds > _LONG_SECONDS:
            break
    return Ceiling(str(dtype).removeprefix("torch."), tuple(products))


def _time_product(
    rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Returns the median seconds of one product, by the kernel that the engine takes for it."""
    states = torch.randn(rows, inner, device=device).to(dtype)
    layer = nn.Linear(inner, columns, bias=False, device=device, dtype=dtype)
    use_onednn_linear(layer)
    timer = Timer(
        "with no_gradient(): layer(states)",
        globals={"no_gradient": torch.inference_mode, "layer": layer, "states": states},
        num_threads=torch.get_num_threads(),
    )
    return float(timer.blocked_autorange(min_run_time=_MIN_SECONDS).median)
