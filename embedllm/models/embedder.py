"""Token ids to embeddings, differentiable: trunk, pooling, optional normalisation."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedllm.distributed import any_rank
from embedllm.log import get_logger
from embedllm.models import attention
from embedllm.models.backbone import decoder_layers, forward_arguments
from embedllm.models.dropout import calls_dropout, count_calls, use_few_bits_dropout
from embedllm.models.last_layer import READ_PLACES, read_only_where_asked, take_places
from embedllm.models.packing import Pack, pack
from embedllm.models.pooling import POOLINGS, last_places
from embedllm.models.prefix import Prefix, supports_prefix
from embedllm.models.token_draws import TokenDraws, drawing_by
from embedllm.models.token_prepending import TokenPrepending
from embedllm.models.trials import Findings, reads_early, takes_tries
from embedllm.models.trie import TriePack

_log = get_logger(__name__)

_BOOLEAN_MASKS: Final = ("sdpa", attention.NAME)


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
            of the sentence, the state that the layer below has at the prompt's end
            (`token_prepending.py`). 0: none.

    Attributes:
        in_step: Whether the trunk's weights are spread over ranks, so that every rank has to make
            as many passes as the others: each gathers the weights from all.
        may_read_early: Whether the last layer may run in two parts, which libraries that follow
            every module's call do not take.
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
        self.in_step = False
        self._draws_by_token = False
        self.may_read_early = True
        self.may_train_prefix = True
        self._prepending: TokenPrepending | None = None
        if token_prepending_layers:
            self._prepending = TokenPrepending(trunk, token_prepending_layers)
        last_layer = decoder_layers(trunk)[2][-1]
        self._read_places: Tensor | None = None
        if pooling == "last" and self._prepending is None:
            read_only_where_asked(last_layer)
            last_layer.register_forward_pre_hook(self._ask_for_places, with_kwargs=True)
        self._raw_state: Tensor | None = None
        if layer != -1:
            last_layer.register_forward_hook(self._keep_raw_state)

    @property
    def embedding_dim(self) -> int:
        """Numbers of a vector."""
        # OPT-350M projects what the whole trunk returns.
        projected = getattr(self._trunk_config, "word_embed_proj_dim", None)
        is_whole = self.layer == -1
        return int((is_whole and projected) or self._trunk_config.hidden_size)

    def settings(self) -> dict[str, Any]:
        """Returns what decides a vector beside the trunk."""
        return {
            "pooling": self.pooling,
            "layer": self.layer,
            "normalize": self.normalize,
            "token_prepending_layers": self.token_prepending_layers,
        }

    def _ask_for_places(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._read_places is None:
            return inputs, keywords
        return inputs, {**keywords, READ_PLACES: self._read_places}

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
        read_early: bool | None = None,
        draws: TokenDraws | None = None,
    ) -> Tensor:
        """Returns [B, D] float32 vectors.

        Args:
            input_ids: [B, L], padded on either side (on the right behind a prefix).
            attention_mask: [B, L], 1 at real tokens.
            prefix: What stands before every row; only where `can_share_prefix`.
            pool_mask: [B, L], 1 at tokens that pooling sees; None for all real ones.
            placeholder: Column of Token Prepending's placeholder; rows padded on the right.
            read_early: Compute the last layer only where it is read; None for
                `can_read_early`.
            draws: What dropout draws by; None for torch's generator.

        Positions are counted over real tokens and passed explicitly, since learned positions
        silently shift under left padding otherwise.
        """
        positions = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        mask = attention_mask
        if prefix is not None:
            positions = positions + prefix.num_tokens
            mask = torch.cat([mask.new_ones(len(mask), prefix.num_tokens), mask], dim=1)
        arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask}
        if self._accepts_position_ids:
            arguments["position_ids"] = positions
        numbers = None
        if draws is not None:
            numbers = draws.of_rows(input_ids, positions, attention_mask)
        if self.pooling == "last" and pool_mask is None and self._prepending is None:
            places = last_places(attention_mask).unsqueeze(1)
            with drawing_by(numbers):
                states = self._states_at(places, prefix, arguments, read_early)
            return self._finish(states.squeeze(1))
        context: Any = nullcontext()
        if self._prepending is not None:
            if placeholder is None:
                raise ValueError("token_prepending_layers needs the placeholder's position")
            context = self._prepending.at(placeholder, attention_mask)
        with context, drawing_by(numbers):
            hidden = self._states(prefix, arguments)
        pool_mask = attention_mask if pool_mask is None else pool_mask
        return self._finish(POOLINGS[self.pooling](hidden, pool_mask))

    def forward_trie(
        self, pack: TriePack, prefix: Prefix | None = None, *, draws: TokenDraws | None = None
    ) -> Tensor:
        """Returns [R, D] float32 vectors of the rows of a trie, pooled at their last tokens.

        Args:
            pack: Rows; only where `can_share_trie`, and not longer than `trie_window`.
            prefix: What stands before every row; only where `can_share_prefix`.
            draws: As for `forward`.
        """
        visible, num_before = pack.visible.unsqueeze(1), 0
        if prefix is not None:
            num_before = prefix.num_tokens
            before = visible.new_ones(*visible.shape[:3], num_before)
            visible = torch.cat([before, visible], dim=-1)
        arguments = {
            "input_ids": pack.input_ids,
            "attention_mask": self._to_mask(visible),
            "position_ids": pack.depths + num_before,
        }
        numbers = None
        if draws is not None:
            numbers = draws.of_nodes(pack.input_ids, arguments["position_ids"], pack.visible)
        with drawing_by(numbers):
            states = self._states_at(pack.ends, prefix, arguments)
        return self._finish(states.flatten(0, 1)[pack.slots])

    def _states_at(
        self,
        places: Tensor,
        prefix: Prefix | None,
        arguments: dict[str, Any],
        read_early: bool | None = None,
    ) -> Tensor:
        """Returns the states at some places of each row: [B, R] to [B, R, D]."""
        if not (self.can_read_early if read_early is None else read_early):
            return take_places(self._states(prefix, arguments), places)
        self._read_places = places
        try:
            return self._states(prefix, arguments)
        finally:
            self._read_places = None

    def _states(self, prefix: Prefix | None, arguments: dict[str, Any]) -> Tensor:
        """Returns the trunk's states, [B, L, D], or only those that are asked for."""
        cache = {} if prefix is None else {"past_key_values": prefix.cache}
        output = self.trunk(**arguments, **cache, use_cache=prefix is not None)
        hidden: Tensor = output.last_hidden_state
        if self.layer != -1:
            assert self._raw_state is not None
            hidden, self._raw_state = self._raw_state, None
        return hidden

    def _finish(self, states: Tensor) -> Tensor:
        vectors = states.float()
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

    @property
    def can_read_early(self) -> bool:
        """Whether the last layer can be computed at the pooled places alone, found by trying."""
        return self.may_read_early and self._reads_early

    @cached_property
    def _reads_early(self) -> bool:
        is_last = self.pooling == "last" and self._prepending is None
        return is_last and self._takes_masks() and reads_early(self)

    @property
    def findings(self) -> Findings:
        """What its trunk can do, found by trying."""
        return Findings(reads_early=self._reads_early, takes_tries=self.can_share_trie)

    def go_in_step(
        self, findings: Findings, *, may_read_early: bool, may_train_prefix: bool
    ) -> None:
        """Says that the trunk's weights are spread over ranks, from before the first pass on.

        Args:
            findings: Those of an embedder of the same kind whose weights are whole: a try that
                fails half way would leave ranks at odds.
            may_read_early: Whether the last layer may still run in two parts.
            may_train_prefix: Whether gradients may enter a layer by its keys and values, as those
                of a shared prefix do.
        """
        self._reads_early = findings.reads_early
        self.can_share_trie = findings.takes_tries
        self.in_step = True
        self.may_read_early = may_read_early
        self.may_train_prefix = may_train_prefix

    @cached_property
    def can_share_trie(self) -> bool:
        """Whether the trunk takes masks and positions as they are, found by trying."""
        is_last = self.pooling == "last" and self._prepending is None
        return is_last and self._takes_masks() and takes_tries(self)

    def can_share_trie_of(self, longest: int) -> bool:
        """Whether rows of up to so many tokens can share a trie; says so when windows forbid it."""
        if not self.can_share_trie:
            return False
        window = self.trie_window
        if window is not None and longest >= window:
            _log.info(
                "sentences that begin alike are computed each for itself: the longest prompt has "
                "%d tokens, the model's attention window %d",
                longest,
                window,
            )
            return False
        return True

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

    def draw_by_token(self) -> None:
        """Lets dropout in `embed_rows` depend on the step and the tokens (`token_draws.py`).

        It then does not depend on which texts are computed together, and where. Before activation
        checkpointing is set up.
        """
        self._draws_by_token = True
        use_few_bits_dropout(self.trunk)
        if calls_dropout(self._trunk_config):
            count_calls(decoder_layers(self.trunk)[2])

    def new_draws(self) -> TokenDraws | None:
        """Returns what dropout draws by in the passes of one step; None for torch's generator."""
        if not (self._draws_by_token and self.training):
            return None
        return TokenDraws.new(next(self.trunk.parameters()).device)

    def announce_pass(self) -> None:
        """Tells the ranks that hold parts of this trunk that a pass of this one comes now."""
        if self.in_step:
            any_rank(True)

    def follow_passes(self) -> None:
        """Takes part in the others' passes until no rank has one left; for a rank that is done."""
        [filler] = pack([[5, 6]], max_tokens=2)
        while self.in_step and any_rank(False):
            self.embed_pack(filler.to(next(self.trunk.parameters()).device))

    def embed_pack(
        self,
        batch: Pack | TriePack,
        prefix: Prefix | None = None,
        *,
        placeholder: int | None = None,
        draws: TokenDraws | None = None,
    ) -> Tensor:
        """Returns the vectors of one pack on the trunk's device, [B, D] in the pack's order."""
        if isinstance(batch, TriePack):
            return self.forward_trie(batch, prefix, draws=draws)
        vectors: Tensor = self.forward(
            batch.input_ids,
            batch.attention_mask,
            prefix,
            pool_mask=batch.pool_mask,
            placeholder=placeholder,
            draws=draws,
        )
        return vectors
