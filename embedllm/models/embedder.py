"""Token ids to embeddings, differentiable: trunk, pooling, optional normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embedllm.log import get_logger
from embedllm.models import attention
from embedllm.models.backbone import decoder_layers, forward_arguments
from embedllm.models.packing import Pack, pack
from embedllm.models.pooling import POOLINGS
from embedllm.models.prefix import Prefix, common_prefix_length, compute_prefix, supports_prefix
from embedllm.models.trie import TriePack, pack_tries

_log = get_logger(__name__)

_BOOLEAN_MASKS: Final = ("sdpa", attention.NAME)
# Far above the rounding of 16 bits, far below what a wrong mask does.
_TRIAL_TOLERANCE: Final = 0.1


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
        # Models with ALiBi compute their own positions.
        self._accepts_position_ids = "position_ids" in forward_arguments(trunk)
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
            arguments |= {"past_key_values": prefix.cache, "use_cache": True}
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

    def forward_trie(self, pack: TriePack, prefix: Prefix | None = None) -> Tensor:
        """Returns [R, D] float32 vectors of the rows of a trie, pooled at their last tokens.

        Args:
            pack: Rows; only where `can_share_trie`, and not longer than `trie_window`.
            prefix: What stands before every row; only where `can_share_prefix`.
        """
        num_bins, width = pack.input_ids.shape
        visible = pack.visible.unsqueeze(1)
        arguments: dict[str, Any] = {"use_cache": False}
        num_before = 0
        if prefix is not None:
            num_before = prefix.num_tokens
            arguments = {"past_key_values": prefix.cache, "use_cache": True}
            before = visible.new_ones(num_bins, 1, width, num_before)
            visible = torch.cat([before, visible], dim=-1)
        hidden = self.trunk(
            input_ids=pack.input_ids,
            attention_mask=self._to_mask(visible),
            position_ids=pack.depths + num_before,
            **arguments,
        ).last_hidden_state
        if self.layer != -1:
            assert self._raw_state is not None
            hidden, self._raw_state = self._raw_state, None
        vectors = hidden.flatten(0, 1)[pack.ends].float()
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def _to_mask(self, visible: Tensor) -> Tensor:
        """Returns the mask in the form that the trunk's attention takes."""
        if self._trunk_config._attn_implementation in _BOOLEAN_MASKS:
            return visible
        dtype = next(self.trunk.parameters()).dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)

    @property
    def _trunk_config(self) -> Any:
        return cast(Any, self.trunk).config

    @property
    def trie_window(self) -> int | None:
        """Tokens of the shortest window that a layer has, None without one.

        Windows are counted in places of a sequence, which in a trie are not positions.
        """
        names = ("sliding_window", "attention_chunk_size")
        windows = [getattr(self._trunk_config, name, None) for name in names]
        return min((window for window in windows if window), default=None)

    @cached_property
    def can_share_trie(self) -> bool:
        """Whether the trunk takes masks and positions as they are, found by trying a small trie.

        Such a trunk computes its attention from what it is given and nothing else: no slopes by
        distance (ALiBi), no convolution and no recurrent state.
        """
        if self.pooling != "last" or self.token_prepending_layers or not self._takes_masks():
            return False
        rows = [[5, 6, 7], [5, 6, 8, 7], [5, 9]]
        device = next(self.trunk.parameters()).device
        [one] = pack_tries(rows, max_tokens=16, bin_nodes=16)
        [plain] = pack(rows, max_tokens=16)
        one, plain = one.to(device), plain.to(device)
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                expected = self(plain.input_ids, plain.attention_mask)[plain.rows.argsort()]
                found = self.forward_trie(one)[one.rows.argsort()]
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            _log.debug("no trie: %s", error)
            return False
        finally:
            self.train(was_training)
        moved = (found - expected).norm(dim=1) / expected.norm(dim=1)
        return bool((moved < _TRIAL_TOLERANCE).all())

    def _takes_masks(self) -> bool:
        model = cast(Any, self.trunk)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        can_choose = getattr(model, "_can_set_attn_implementation", lambda: False)
        is_fused = self._trunk_config._attn_implementation in (*_BOOLEAN_MASKS, "eager")
        return self._accepts_position_ids and is_fused and bool(can_choose())

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

    def embed_rows(
        self,
        token_ids: Sequence[list[int]],
        *,
        max_tokens: int,
        share_prefix: bool = True,
        recompute: bool = False,
    ) -> Tensor:
        """Returns one vector per row in the caller's order, [B, D], with gradient.

        Args:
            token_ids: Unpadded rows.
            max_tokens: Padded tokens per forward pass.
            share_prefix: Compute what all rows begin with once, and its gradient too, where the
                model and the pooling allow it.
            recompute: Keep no states of a pack but compute it again when its gradient is due, so
                that memory does not grow with the number of rows (the same numbers, also with
                dropout, for a third more time).
        """
        num_shared = 0
        if share_prefix and self.can_share_prefix and self.pooling == "last":
            num_shared = common_prefix_length(token_ids)
        prefix = compute_prefix(self.trunk, token_ids[0][:num_shared]) if num_shared else None
        packs = pack([ids[num_shared:] for ids in token_ids], max_tokens=max_tokens)
        return self.embed_packs(packs, prefix, recompute=recompute)

    def embed_packs(
        self, packs: Iterable[Pack], prefix: Prefix | None = None, *, recompute: bool = False
    ) -> Tensor:
        """Returns the vectors of all packs in the caller's order, [sum of B, D], with gradient.

        Args:
            packs: Rows, without the tokens of the prefix.
            prefix: What stands before every row.
            recompute: As for `embed_rows`.
        """
        device = next(self.trunk.parameters()).device
        vectors, rows = [], []
        for batch in packs:
            batch = batch.to(device)
            arguments = (batch.input_ids, batch.attention_mask, prefix)
            if recompute:
                # The kind that needs no input with gradient: ids have none, and the adapter is
                # inside.
                part = checkpoint(self, *arguments, use_reentrant=False, pool_mask=batch.pool_mask)
            else:
                part = self(*arguments, pool_mask=batch.pool_mask)
            vectors.append(part)
            rows.append(batch.rows)
        return torch.cat(vectors)[torch.cat(rows).argsort()]
