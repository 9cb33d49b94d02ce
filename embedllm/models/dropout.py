"""Dropout whose numbers belong to tokens (`token_draws.py`), from a quarter of the random bits.

torch draws one number of 32 bits for every entry, which in a LoRA step of SmolLM2-135M (dropout
before every adapter) took a seventh of the time. Here 64 random bits serve four entries, compared
as whole numbers of 16 bits; the rate is kept to 1 in 65,536 and the scale belongs to the rate as
drawn, so the expected value is exact.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from embedllm.models.token_draws import current_numbers, random_words

_NUM_LEVELS: Final = 2**16
_PER_WORD: Final = 4
_LOWEST: Final = -(2**63)
# So many calls of the function in one layer have streams of their own.
_CALLS_PER_LAYER: Final = 16


class FewBitsDropout(nn.Dropout):
    """The library's dropout with another way to draw.

    Attributes:
        stream: Number among the dropouts of a model.
    """

    stream: int = 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the library's name)
        """Returns the input with a part of the entries zero and the others scaled up."""
        if not self.training or self.inplace or torch.compiler.is_compiling():
            return super().forward(input)
        return drop(input, self.p, stream=self.stream)


def use_few_bits_dropout(module: nn.Module) -> None:
    """Makes every plain dropout inside a module one of the kind above, in place; numbers them."""
    for number, layer in enumerate(module.modules()):
        if type(layer) in (nn.Dropout, FewBitsDropout):
            layer.__class__ = FewBitsDropout
            cast(Any, layer).stream = number


def drop(states: Tensor, rate: float, *, stream: int) -> Tensor:
    """Returns states with a part of the entries zero and the others scaled up.

    Draws by token where the pass has numbers for its tokens, else from torch's generator.

    Args:
        states: [..., H].
        rate: Share of zeros, 0 to 1.
        stream: Which layer asks.
    """
    num_dropped = round(rate * _NUM_LEVELS)
    if not 0 < num_dropped < _NUM_LEVELS:
        return _drop_usually(states, rate)
    numbers = current_numbers()
    if numbers is not None and numbers.numel() * states.shape[-1] == states.numel():
        width = -(-states.shape[-1] // _PER_WORD)
        words = random_words(numbers.flatten(), width=width, stream=stream)
        levels = words.view(torch.int16)[:, : states.shape[-1]].reshape(states.shape)
        return states * _to_factors(levels, num_dropped, states.dtype)
    if states.device.type == "cpu":
        return states * draw_factors(states, num_dropped)
    return _drop_usually(states, rate)


def draw_factors(like: Tensor, num_dropped: int) -> Tensor:
    """Returns a tensor of the same shape and type: 0 with a chance of `num_dropped` in 65,536."""
    num_entries = like.numel()
    numbers = torch.empty(-(-num_entries // _PER_WORD), dtype=torch.int64)
    levels = numbers.random_(_LOWEST, None).view(torch.int16)[:num_entries].view(like.shape)
    return _to_factors(levels, num_dropped, like.dtype)


def _to_factors(levels: Tensor, num_dropped: int, dtype: torch.dtype) -> Tensor:
    kept = levels >= num_dropped - _NUM_LEVELS // 2
    return kept.to(dtype).mul_(_NUM_LEVELS / (_NUM_LEVELS - num_dropped))


def _drop_usually(states: Tensor, rate: float) -> Tensor:
    return F.dropout(states, rate, training=True)


# --- Models that call the function instead of having a layer ------------------------------------


@dataclass
class _Counter:
    """Which call of the function comes next in which layer."""

    layer: int
    calls: int = 0


_counter: ContextVar[_Counter | None] = ContextVar("dropout_calls", default=None)


class _ByToken(TorchFunctionMode):
    """Draws the dropout of the function by token too."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.dropout:
            return func(*args, **kwargs)
        bound = inspect.signature(F.dropout).bind(*args, **kwargs)
        bound.apply_defaults()
        given: Mapping[str, Any] = bound.arguments
        if not given["training"] or given["inplace"]:
            return func(*args, **kwargs)
        counter = _counter.get() or _Counter(-1)
        stream = -1 - (counter.layer * _CALLS_PER_LAYER + counter.calls % _CALLS_PER_LAYER)
        counter.calls += 1
        return drop(given["input"], given["p"], stream=stream)


def count_calls(layers: nn.ModuleList) -> None:
    """Makes the dropout functions inside some layers draw by token, in place.

    Only layers whose model has such a rate should get it: the mode looks at every call of torch.
    """
    for number, layer in enumerate(layers):
        module = cast(Any, layer)
        if not getattr(module, "counts_dropout", False):
            module.forward = partial(_forward, number, module.forward)
            module.counts_dropout = True


def _forward(number: int, forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    if current_numbers() is None:
        return forward(*arguments, **keywords)
    token = _counter.set(_Counter(number))
    try:
        with _ByToken():
            return forward(*arguments, **keywords)
    finally:
        _counter.reset(token)


def calls_dropout(config: Any) -> bool:
    """Whether a model's configuration has a rate of dropout on hidden states above 0."""
    rates = {k: v for k, v in vars(config).items() if "drop" in k or k.endswith("pdrop")}
    return any(isinstance(v, float) and v > 0 for k, v in rates.items() if "att" not in k)
