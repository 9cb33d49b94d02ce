"""The beginning that all prompts of a call share, computed once.

A template's first words, or a whole demonstration, are the same in every row. For a causal model
their keys and values do not depend on what follows, so one row computes them for all. The common
part is found on token ids, because the last characters of a text can merge with what comes next.
In training the gradient of all rows flows back through that one row.

Shapes: P prefix tokens, B rows, K key-value heads, L own tokens of a row, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from embedllm.models.backbone import forward_arguments

# Below this many tokens the bookkeeping costs as much as it saves.
_MIN_TOKENS = 2
_MIN_ROWS = 4


class _RecordingLayer(DynamicLayer):
    """Keeps the keys and values of the last forward pass, and adds nothing to them.

    A pass that is run again for its gradient (activation checkpointing) sees what it saw before.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns what it was given."""
        self.keys, self.values = key_states, value_states
        return key_states, value_states


class _SharedLayer(DynamicLayer):
    """Keys and values of the prefix in one layer, [1, K, P, E] each, which nothing adds to.

    So one cache serves any number of batches, and a batch that is computed twice (activation
    checkpointing) sees the same both times.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = self._shared = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns the prefix in front of every row: [B, K, P + L, E] each."""
        keys, values = self._shared
        return _in_front(keys, key_states), _in_front(values, value_states)


def _in_front(shared: Tensor, own: Tensor) -> Tensor:
    return torch.cat([shared.expand(len(own), -1, -1, -1), own], dim=-2)


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the shared tokens.

    Attributes:
        num_tokens: P.
        cache: The library's form of them; the trunk reads it and leaves it as it is.
    """

    num_tokens: int
    cache: Cache

    @classmethod
    def of(cls, num_tokens: int, tensors: Sequence[Tensor]) -> Prefix:
        """Returns the prefix with these keys and values, in turn for each layer."""
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        layers: list[Any] = [_SharedLayer(keys, values) for keys, values in pairs]
        return cls(num_tokens, Cache(layers=layers))

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values, in turn for each layer."""
        layers = cast(Any, self.cache).layers
        return [part for layer in layers for part in (layer.keys, layer.values)]


def supports_prefix(trunk: nn.Module) -> bool:
    """Whether the trunk takes keys and values of earlier tokens in the library's common form."""
    return {"past_key_values", "use_cache"} <= set(forward_arguments(trunk))


def common_prefix_length(token_ids: Sequence[list[int]]) -> int:
    """Returns how many tokens all rows begin with; every row keeps at least one of its own.

    Returns 0 where sharing would not pay: few rows or few tokens.
    """
    if len(token_ids) < _MIN_ROWS:
        return 0
    # What the smallest and the largest row in dictionary order share, all between them share.
    first, last = min(token_ids), max(token_ids)
    limit = min(map(len, token_ids)) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length if length >= _MIN_TOKENS else 0


def compute_prefix(trunk: nn.Module, token_ids: Sequence[int]) -> Prefix:
    """Returns the keys and values of some tokens at the beginning of a text.

    With gradient where the caller has it on.
    """
    device = next(trunk.parameters()).device
    # Every layer keeps all positions, and the mask alone makes a sliding window, so models that
    # mix both kinds of layers need no case of their own.
    cache: Any = Cache(layer_class_to_replicate=_RecordingLayer)
    trunk(
        input_ids=torch.tensor([list(token_ids)], device=device),
        past_key_values=cache,
        use_cache=True,
    )
    tensors = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    return Prefix.of(len(token_ids), tensors)
