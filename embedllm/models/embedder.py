"""Token ids to embeddings, differentiable: trunk, pooling, optional normalisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedllm.models.backbone import accepts_position_ids, decoder_layers
from embedllm.models.packing import Pack
from embedllm.models.pooling import POOLINGS


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
    """

    def __init__(
        self, trunk: nn.Module, *, pooling: str = "last", layer: int = -1, normalize: bool = False
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling
        self.layer = layer
        self.normalize = normalize
        self._accepts_position_ids = accepts_position_ids(trunk)
        self._raw_state: Tensor | None = None
        if layer != -1:
            decoder_layers(trunk)[2][-1].register_forward_hook(self._keep_raw_state)

    def _keep_raw_state(self, module: nn.Module, inputs: object, output: object) -> None:
        state = output[0] if isinstance(output, tuple) else output
        assert isinstance(state, Tensor)
        self._raw_state = state

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns [B, D] float32 vectors.

        Args:
            input_ids: [B, L], padded on either side.
            attention_mask: [B, L], 1 at real tokens.

        Positions are counted over real tokens and passed explicitly, since learned positions
        silently shift under left padding otherwise.
        """
        arguments: dict[str, Tensor | bool] = {"input_ids": input_ids, "use_cache": False}
        if self._accepts_position_ids:
            arguments["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        hidden = self.trunk(attention_mask=attention_mask, **arguments).last_hidden_state
        if self.layer != -1:
            assert self._raw_state is not None
            hidden, self._raw_state = self._raw_state, None
        vectors = POOLINGS[self.pooling](hidden, attention_mask).float()
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def embed_packs(self, packs: Iterable[Pack]) -> Tensor:
        """Returns the vectors of all packs in the caller's order, [sum of B, D], with gradient."""
        device = next(self.trunk.parameters()).device
        vectors, rows = [], []
        for pack in packs:
            pack = pack.to(device)
            vectors.append(self(pack.input_ids, pack.attention_mask))
            rows.append(pack.rows)
        return torch.cat(vectors)[torch.cat(rows).argsort()]
