"""Token ids to embeddings, differentiable: trunk, pooling, optional normalisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedllm.models.backbone import accepts_position_ids, decoder_layers
from embedllm.models.packing import Pack
from embedllm.models.pooling import POOLINGS
from embedllm.models.prefix import Prefix, supports_prefix


class _Placeholder(NamedTuple):
    """Where the placeholder stands, and the rows' real tokens."""

    position: int
    attention_mask: Tensor


class Embedder(nn.Module):
    """A decoder trunk, possibly with an adapter, that gives one vector per row.

    Shapes: B texts, L tokens, D embedding_dim (512 for OPT-350M, whose output projection is
    part of the trunk; paper_method 1).

    Args:
        trunk: Model without language-model head; `last_hidden_state` is its output.
        pooling: Name in `POOLINGS`.
        layer: -1 for the trunk's output. Any other value says that the trunk was shortened
            (`backbone.keep_layers`) and the raw output of its now last layer is meant, without
            the final norm, as in the library's hidden-state tuple (`backbone.resolve_layer`).
        normalize: Divide vectors by their length.
        token_prepending_layers: So many layers after the first read, at a placeholder in front
            of the sentence, the state that the layer below has at the prompt's end, so that
            early tokens see the whole sentence (Token Prepending, Fu et al. 2024). 0: none.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        pooling: str = "last",
        layer: int = -1,
        normalize: bool = False,
        token_prepending_layers: int = 0,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling
        self.layer = layer
        self.normalize = normalize
        self.token_prepending_layers = token_prepending_layers
        self._accepts_position_ids = accepts_position_ids(trunk)
        self.can_share_prefix = supports_prefix(trunk)
        self._placeholder: _Placeholder | None = None
        if token_prepending_layers:
            for decoder_layer in decoder_layers(trunk)[2][1 : 1 + token_prepending_layers]:
                decoder_layer.register_forward_pre_hook(self._prepend, with_kwargs=True)
        self._raw_state: Tensor | None = None
        if layer != -1:
            decoder_layers(trunk)[2][-1].register_forward_hook(self._keep_raw_state)

    def settings(self) -> dict[str, Any]:
        """Returns what decides a vector beside the trunk."""
        return {
            "pooling": self.pooling,
            "layer": self.layer,
            "normalize": self.normalize,
            "token_prepending_layers": self.token_prepending_layers,
        }

    def _prepend(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Writes the state at each row's end to the placeholder's position."""
        if self._placeholder is None:
            return inputs, keywords  # a shared prefix: what stands before the placeholder
        position, mask = self._placeholder
        hidden = inputs[0] if inputs else keywords["hidden_states"]
        before, after = hidden[:, :position], hidden[:, position + 1 :]
        last = POOLINGS["last"](hidden, mask).unsqueeze(1)
        hidden = torch.cat([before, last, after], dim=1)
        if inputs:
            return (hidden, *inputs[1:]), keywords
        return inputs, {**keywords, "hidden_states": hidden}

    def _keep_raw_state(self, module: nn.Module, inputs: object, output: object) -> None:
        state = output[0] if isinstance(output, tuple) else output
        assert isinstance(state, Tensor)
        self._raw_state = state

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefix: Prefix | None = None,
        *,
        pool_mask: Tensor | None = None,
        placeholder: int | None = None,
    ) -> Tensor:
        """Returns [B, D] float32 vectors.

        Args:
            input_ids: [B, L], padded on either side (on the right behind a prefix).
            attention_mask: [B, L], 1 at real tokens.
            prefix: What stands before every row; only where `can_share_prefix`.
            pool_mask: [B, L], 1 at tokens that pooling sees; None for all real ones.
            placeholder: Column of Token Prepending's placeholder; rows padded on the right.

        Positions are counted over real tokens and passed explicitly, since learned positions
        silently shift under left padding otherwise.
        """
        arguments: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
        positions = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        mask = attention_mask
        if prefix is not None:
            num_rows = len(input_ids)
            arguments |= {"past_key_values": prefix.to_cache(num_rows), "use_cache": True}
            positions = positions + prefix.num_tokens
            mask = torch.cat([mask.new_ones(num_rows, prefix.num_tokens), mask], dim=1)
        if self._accepts_position_ids:
            arguments["position_ids"] = positions
        if self.token_prepending_layers:
            if placeholder is None:
                raise ValueError("token_prepending_layers needs the placeholder's position")
            self._placeholder = _Placeholder(placeholder, attention_mask)
        try:
            hidden = self.trunk(attention_mask=mask, **arguments).last_hidden_state
        finally:
            self._placeholder = None
        if self.layer != -1:
            assert self._raw_state is not None
            hidden, self._raw_state = self._raw_state, None
        pool_mask = attention_mask if pool_mask is None else pool_mask
        vectors = POOLINGS[self.pooling](hidden, pool_mask).float()
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Returns the library's tuple: the embeddings, then one [B, L, H] after each layer.

        The last is behind the final norm. Only for an embedder of the whole trunk.
        """
        arguments: dict[str, Any] = {"use_cache": False, "output_hidden_states": True}
        if self._accepts_position_ids:
            arguments["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        output = self.trunk(input_ids=input_ids, attention_mask=attention_mask, **arguments)
        # OPT-350M projects what it returns but not the last entry of its tuple.
        return (*output.hidden_states[:-1], output.last_hidden_state)

    def embed_packs(self, packs: Iterable[Pack]) -> Tensor:
        """Returns the vectors of all packs in the caller's order, [sum of B, D], with gradient."""
        device = next(self.trunk.parameters()).device
        vectors, rows = [], []
        for pack in packs:
            pack = pack.to(device)
            vectors.append(self(pack.input_ids, pack.attention_mask, pool_mask=pack.pool_mask))
            rows.append(pack.rows)
        return torch.cat(vectors)[torch.cat(rows).argsort()]
