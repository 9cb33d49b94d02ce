"""The last layer, computed only at the places that are read.

Behind the last attention nothing looks at the other places again, so there the query, the output
projection and the feed-forward block are needed at the pooled places alone: one of 20 tokens in a
short sentence. The layer's own code runs twice: once on all places, as far as its keys and values,
and once on the read places with those keys and values given. It gets them through the library's
cache, so no family needs a case of its own; a model whose trunk does not take it is found out by
trying (`trials.py`).

Shapes: B rows, L places, R places that are read, H hidden size, K key-value heads, S keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from embedllm.models.token_draws import current_numbers, draw_from_here_by

_CACHE_NAMES: Final = ("past_key_values", "layer_past")
READ_PLACES: Final = "read_places"
"""Keyword of a layer's call: [B, R] int64, the places of each row that are read."""


class _Enough(Exception):  # noqa: N818 (no error: the first run ends here)
    """Carries the keys and values of a layer, [B, K, S, E] each."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


class _UpToHere:
    """Stands for the cache in the first run, which it ends."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def update(self, keys: Tensor, values: Tensor, *arguments: Any, **options: Any) -> None:
        if self._cache is not None:
            keys, values = self._cache.update(keys, values, *arguments, **options)
        raise _Enough(keys, values)


class _Given:
    """Stands for the cache in the second run: all keys and values, whatever comes."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._known = keys, values

    def update(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self._known


def read_only_where_asked(module: nn.Module) -> None:
    """Makes a layer return [B, R, H] instead of [B, L, H] when it is called with `READ_PLACES`."""
    layer: Any = module
    # Several embedders may stand on one trunk.
    if not getattr(layer, "can_read_places", False):
        layer.forward = partial(_forward, layer.forward, inspect.signature(layer.forward))
        layer.can_read_places = True


def take_places(states: Tensor, places: Tensor) -> Tensor:
    """Returns [B, R, ...] of [B, L, ...], or of [1, L, ...] that all rows share."""
    states = states.expand(len(places), *states.shape[1:])
    rows = torch.arange(len(places), device=places.device).unsqueeze(1)
    return states[rows, places]


def _forward(
    forward: Callable[..., Any], signature: inspect.Signature, *positional: Any, **keywords: Any
) -> Any:
    places = keywords.pop(READ_PLACES, None)
    if places is None:
        return forward(*positional, **keywords)
    bound = signature.bind(*positional, **keywords)
    arguments = {**bound.arguments, **bound.arguments.pop("kwargs", {})}
    hidden = arguments.pop("hidden_states")
    cache = next(name for name in _CACHE_NAMES if name in signature.parameters)
    known = _keys_and_values(forward, hidden, {**arguments, cache: _UpToHere(arguments.get(cache))})
    given = {**_at(arguments, places), cache: _Given(*known)}
    numbers = current_numbers()
    if numbers is not None:
        draw_from_here_by(take_places(numbers, places))
    return forward(take_places(hidden, places), **given)


def _keys_and_values(
    forward: Callable[..., Any], hidden: Tensor, arguments: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Returns a layer's keys and values, [B, K, S, E] each."""
    try:
        forward(hidden, **arguments)
    except _Enough as enough:
        # Taken out of the exception: it holds on to the states of every function it went through.
        return enough.keys, enough.values
    raise TypeError("the layer has no keys and values")


def _at(arguments: dict[str, Any], places: Tensor) -> dict[str, Any]:
    """Returns a layer's arguments for the read places alone."""
    changed = dict(arguments)
    mask = arguments.get("attention_mask")
    if mask is not None:
        changed["attention_mask"] = take_places(mask.transpose(1, 2), places).transpose(1, 2)
    if arguments.get("position_ids") is not None:
        changed["position_ids"] = take_places(arguments["position_ids"], places)
    if arguments.get("position_embeddings") is not None:
        changed["position_embeddings"] = tuple(
            take_places(part, places) for part in arguments["position_embeddings"]
        )
    return changed
