"""Rows of any number to vectors with gradient: packed, what they share once, recomputed if asked.

Where the trunk's weights are spread over ranks, all ranks make equally many passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from embedllm.distributed import largest_of_ranks
from embedllm.models.embedder import Embedder
from embedllm.models.packing import Pack, pack
from embedllm.models.prefix import Prefix, common_prefix_length, compute_prefix
from embedllm.models.recompute import recomputed
from embedllm.models.token_draws import TokenDraws, drawing_by
from embedllm.models.trie import TriePack, pack_smallest


def embed_rows(
    embedder: Embedder,
    token_ids: Sequence[list[int]],
    *,
    max_tokens: int,
    share_prefix: bool = True,
    recompute: bool = False,
    num_shared: int | None = None,
) -> Tensor:
    """Returns one vector per row in the caller's order, [B, D], with gradient.

    Args:
        embedder: The embedder.
        token_ids: Unpadded rows.
        max_tokens: Padded tokens per forward pass.
        share_prefix: Compute what rows begin with alike once, and its gradient too (what all
            share, and what some do), where the model and the pooling allow it.
        recompute: Keep no states of a pack but compute it again when its gradient is due, so
            that memory does not grow with the number of rows (the same numbers, also with
            dropout, for a third to a half more time).
        num_shared: First tokens that all rows have in common and that are computed once; None
            to find out.
    """
    can_share = (
        embedder.can_share_prefix and embedder.may_train_prefix and embedder.pooling == "last"
    )
    if not (share_prefix and can_share):
        num_shared = 0
    elif num_shared is None:
        num_shared = common_prefix_length(token_ids)
    draws = embedder.new_draws()
    prefix = None
    if num_shared:
        device = next(embedder.trunk.parameters()).device
        ids = torch.tensor(token_ids[0][:num_shared], device=device)
        prefix, draws = embed_prefix(embedder, ids, draws)
    rows = [ids[num_shared:] for ids in token_ids]
    longest = max(map(len, token_ids)) if share_prefix else None
    packs = _pack_rows(embedder, rows, max_tokens, longest=longest)
    return embed_packs(embedder, packs, prefix, recompute=recompute, draws=draws)


def split_rows(
    embedder: Embedder,
    token_ids: Sequence[list[int]],
    *,
    max_tokens: int,
    share_prefix: bool = True,
) -> list[Callable[[], Tensor]]:
    """Returns passes that give the vectors of the rows, [B, D], in the caller's order.

    Each computes the vectors of one pack, zero at the places of other rows, so that their sum
    is what `embed_rows` returns; a pass may be run again and draws the same dropout. Where
    ranks go in step all have as many.

    Args:
        embedder: The embedder.
        token_ids: As for `embed_rows`.
        max_tokens: As for `embed_rows`.
        share_prefix: Compute what rows of a pack begin with alike once.
    """
    longest = max(map(len, token_ids)) if share_prefix else None
    packs = _pack_rows(embedder, token_ids, max_tokens, longest=longest)
    draws = embedder.new_draws()

    def run(batch: Pack | TriePack, rows: Tensor) -> Tensor:
        device = next(embedder.trunk.parameters()).device
        vectors = embedder.embed_pack(batch.to(device), draws=draws)
        zeros = vectors.new_zeros(len(token_ids), vectors.shape[1])
        return zeros.index_add(0, rows.to(device), vectors[: len(rows)])

    passes = list(_in_step(embedder, packs))
    own = [batch.rows for batch in packs]
    own += [torch.empty(0, dtype=torch.long)] * (len(passes) - len(packs))
    return [partial(run, batch, rows) for batch, rows in zip(passes, own, strict=True)]


def embed_packs(
    embedder: Embedder,
    packs: Sequence[Pack | TriePack],
    prefix: Prefix | None = None,
    *,
    recompute: bool = False,
    draws: TokenDraws | None = None,
) -> Tensor:
    """Returns the vectors of all packs in the caller's order, [sum of B, D], with gradient.

    Args:
        embedder: The embedder.
        packs: Rows, without the tokens of the prefix.
        prefix: What stands before every row.
        recompute: As for `embed_rows`.
        draws: As for `Embedder.forward`.
    """
    device = next(embedder.trunk.parameters()).device
    parameters = [p for p in embedder.parameters() if p.requires_grad]
    vectors, rows = [], []
    for batch in _in_step(embedder, packs):
        batch = batch.to(device)
        if recompute and embedder.in_step:
            # DeepSpeed follows modules by hooks, which know this way to compute again alone.
            run_again = partial(embedder.embed_pack, batch, prefix, draws=draws)
            vectors.append(checkpoint(run_again, use_reentrant=False, early_stop=False))
        elif recompute:
            run = partial(_embed_behind, embedder, batch, prefix, draws)
            shared = [] if prefix is None else prefix.tensors
            vectors.append(recomputed(run, shared, parameters))
        else:
            vectors.append(embedder.embed_pack(batch, prefix, draws=draws))
        rows.append(batch.rows)
    # What fills up a rank's passes comes last and is not asked for.
    order = torch.cat(rows[: len(packs)]).argsort()
    return torch.cat(vectors)[order]


def _pack_rows(
    embedder: Embedder, rows: Sequence[list[int]], max_tokens: int, *, longest: int | None
) -> Sequence[Pack | TriePack]:
    """Packs rows, as tries where they may share beginnings.

    Args:
        embedder: The embedder.
        rows: Behind what all have in common.
        max_tokens: As for `embed_rows`.
        longest: Tokens of the longest row with what is in front of it; None for no tries.
    """
    if longest is not None and embedder.can_share_trie_of(longest):
        device = next(embedder.trunk.parameters()).device
        return pack_smallest(rows, max_tokens=max_tokens, device=device)
    return pack(rows, max_tokens=max_tokens)


def embed_prefix(
    embedder: Embedder, input_ids: Tensor, draws: TokenDraws | None
) -> tuple[Prefix, TokenDraws | None]:
    """Returns the prefix of these tokens, [P], and the draws of what stands behind it."""
    if draws is None:
        return compute_prefix(embedder.trunk, input_ids.tolist()), None
    numbers = draws.of_rows(
        input_ids.unsqueeze(0),
        torch.arange(len(input_ids), device=input_ids.device).unsqueeze(0),
        torch.ones_like(input_ids).unsqueeze(0),
    )
    with drawing_by(numbers):
        prefix = compute_prefix(embedder.trunk, input_ids.tolist())
    return prefix, draws.behind(input_ids)


def _in_step(embedder: Embedder, packs: Sequence[Pack | TriePack]) -> Iterator[Pack | TriePack]:
    """Yields the packs, and the last one again until all ranks have had as many."""
    # Before the first pass: a rank that asks while others compute would meet their gathering.
    num_passes = largest_of_ranks(len(packs)) if embedder.in_step else len(packs)
    yield from packs
    for _ in range(num_passes - len(packs)):
        yield packs[-1]


def _embed_behind(
    embedder: Embedder,
    batch: Pack | TriePack,
    prefix: Prefix | None,
    draws: TokenDraws | None,
    tensors: Sequence[Tensor],
) -> Tensor:
    """Returns the vectors of a pack behind a prefix with these keys and values."""
    if prefix is not None:
        prefix = Prefix.of(prefix.num_tokens, tensors)
    return embedder.embed_pack(batch, prefix, draws=draws)
