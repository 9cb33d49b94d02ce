"""The beginning that all prompts of a call share, computed once.

A template's first words, or a whole demonstration, are the same in every row. For a causal model
their keys and values do not depend on what follows, so one row computes them for all. The common
part is found on token ids, because the last characters of a text can merge with what comes next.

Shapes: P prefix tokens, N rows, K key-value heads, E head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache

# Below this many tokens the bookkeeping costs as much as it saves.
_MIN_TOKENS = 2
_MIN_ROWS = 4


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the shared tokens.

    Attributes:
        num_tokens: P.
        layers: Per layer the keys and the values, [1, K, P, E] each.
    """

    num_tokens: int
    layers: tuple[tuple[Tensor, Tensor], ...]

    def to_cache(self, num_rows: int) -> Cache:
        """Returns a new cache in which each of `num_rows` rows has the prefix behind it."""
        from transformers import DynamicCache

        # Without a config every layer keeps all positions, and the mask alone makes a sliding
        # window, so models that mix both kinds of layers need no case of their own.
        cache = DynamicCache()
        for i, (keys, values) in enumerate(self.layers):
            shape = (num_rows, *keys.shape[1:])
            cache.update(keys.expand(shape), values.expand(shape), i)
        return cache


def supports_prefix(trunk: nn.Module) -> bool:
    """Whether the trunk takes keys and values of earlier tokens in the library's common form."""
    parameters = inspect.signature(trunk.forward).parameters
    return "past_key_values" in parameters and "use_cache" in parameters


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


@torch.inference_mode()
def compute_prefix(trunk: nn.Module, token_ids: Sequence[int]) -> Prefix:
    """Returns the keys and values of some tokens at the beginning of a text."""
    from transformers import DynamicCache

    device = next(trunk.parameters()).device
    cache: Any = DynamicCache()
    input_ids = torch.tensor([list(token_ids)], device=device)
    trunk(input_ids=input_ids, past_key_values=cache, use_cache=True)
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return Prefix(len(token_ids), layers)
