"""Token Prepending (Fu et al. 2024): early tokens see the whole sentence.

The first layers after the first one read, at a placeholder in front of the sentence, the state that
the layer below has at the prompt's end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from embedllm.models.backbone import decoder_layers
from embedllm.models.pooling import pool_last


class _Placeholder(NamedTuple):
    """Where the placeholder stands, and the rows' real tokens."""

    position: int
    attention_mask: Tensor


class TokenPrepending:
    """Hooks on some layers of a trunk.

    Args:
        trunk: The decoder trunk.
        num_layers: How many layers after the first read the prepended state.
    """

    def __init__(self, trunk: nn.Module, num_layers: int) -> None:
        self._placeholder: _Placeholder | None = None
        for layer in decoder_layers(trunk)[2][1 : 1 + num_layers]:
            layer.register_forward_pre_hook(self._prepend, with_kwargs=True)

    @contextmanager
    def at(self, position: int, attention_mask: Tensor) -> Iterator[None]:
        """Has the layers read at this column of rows that are padded on the right."""
        self._placeholder = _Placeholder(position, attention_mask)
        try:
            yield
        finally:
            self._placeholder = None

    def _prepend(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Writes the state at each row's end to the placeholder's position."""
        if self._placeholder is None:
            return inputs, keywords  # a shared prefix: what stands before the placeholder
        position, mask = self._placeholder
        hidden = inputs[0] if inputs else keywords["hidden_states"]
        before, after = hidden[:, :position], hidden[:, position + 1 :]
        hidden = torch.cat([before, pool_last(hidden, mask).unsqueeze(1), after], dim=1)
        if inputs:
            return (hidden, *inputs[1:]), keywords
        return inputs, {**keywords, "hidden_states": hidden}
