"""Rows that begin alike, with every distinct beginning computed once.

For a causal model the state at a token depends on the tokens before it alone, so rows that share
their first tokens share the states there. A bin holds the trie of some neighbouring rows in
dictionary order as one sequence of nodes; each node sees its ancestors, which are the tokens before
it in its rows, and stands at the position that it has there. The number of distinct beginnings is
the least that any exact method has to compute; bins repeat a few at their borders.

Shapes: B bins, N nodes of the widest of them, E row ends of the bin that has most, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedllm.models.packing import Pack, pack, to_device

# A trie has to save so much, for its attention sees whole bins instead of single rows.
_PAYS: Final = 0.95


@dataclass(frozen=True)
class TriePack:
    """Bins that go through the model together.

    Attributes:
        input_ids: [B, N] int64, the token of each node.
        depths: [B, N] int64, how many tokens of its rows stand before a node.
        visible: [B, N, N] bool, true where the first node sees the second: its ancestors and
            itself. Padding sees itself alone.
        ends: [B, E] int64, the nodes at which rows end; a bin with fewer rows repeats node 0.
        slots: [R] int64, where each row's end stands in `ends`, counted over all B * E.
        rows: [R] int64, where each row stands in the caller's order.
    """

    input_ids: Tensor
    depths: Tensor
    visible: Tensor
    ends: Tensor
    slots: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> TriePack:
        """Returns the pack on `device`."""
        return replace(self, **{n: to_device(value, device) for n, value in vars(self).items()})


def default_bin_nodes(device: torch.device) -> int:
    """Returns a number of nodes per bin: few for attention, enough to repeat little."""
    return 256 if device.type == "cuda" else 96


@dataclass
class _Bin:
    """A trie of rows in dictionary order, node by node, parents before children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    # The nodes of the row that was added last.
    path: list[int] = field(default_factory=list)

    def count_shared(self, row: Sequence[int]) -> int:
        """Returns how many first tokens of a row are there already.

        Only the last row is looked at: of all rows before in dictionary order none shares more.
        """
        shared = 0
        for node, token in zip(self.path, row, strict=False):
            if self.tokens[node] != token:
                break
            shared += 1
        return shared

    def add(self, number: int, row: Sequence[int], shared: int) -> None:
        """Adds a row, whose first `shared` tokens are there."""
        self.path = self.path[:shared]
        for depth in range(shared, len(row)):
            self.parents.append(self.path[-1] if self.path else -1)
            self.tokens.append(row[depth])
            self.depths.append(depth)
            self.path.append(len(self.tokens) - 1)
        self.ends.append(self.path[-1])
        self.rows.append(number)


def pack_smallest(
    token_ids: Sequence[Sequence[int]], *, max_tokens: int, device: torch.device
) -> list[Pack] | list[TriePack]:
    """Packs rows as tries where that leaves less to compute than rows of similar length."""
    packs = pack(token_ids, max_tokens=max_tokens)
    tries = pack_tries(token_ids, max_tokens=max_tokens, bin_nodes=default_bin_nodes(device))
    return tries if _count_tokens(tries) <= _PAYS * _count_tokens(packs) else packs


def _count_tokens(packs: Sequence[Pack] | Sequence[TriePack]) -> int:
    """Returns how many tokens go through the model, padding included."""
    return sum(batch.input_ids.numel() for batch in packs)


def count_nodes(rows: Sequence[Sequence[int]]) -> int:
    """Returns the number of distinct beginnings of all rows: the nodes of one trie."""
    whole = _Bin()
    for row in sorted(map(list, rows)):
        whole.add(0, row, whole.count_shared(row))
    return len(whole.tokens)


def pack_tries(
    token_ids: Sequence[Sequence[int]], *, max_tokens: int, bin_nodes: int
) -> list[TriePack]:
    """Packs rows into tries.

    Args:
        token_ids: One non-empty row per text.
        max_tokens: Nodes of a pack, padding included; a single wider bin is a pack of its own.
        bin_nodes: Nodes of a bin; a longer row gets a bin of its own. Attention grows with the
            square of it, what is repeated at the borders shrinks with it.

    Returns:
        Packs, the widest first. Every row is in exactly one of them.
    """
    bins = sorted(_fill_bins(token_ids, bin_nodes), key=lambda one: -len(one.tokens))
    packs, start = [], 0
    while start < len(bins):
        number = max(1, max_tokens // len(bins[start].tokens))
        packs.append(_to_pack(bins[start : start + number]))
        start += number
    return packs


def _fill_bins(token_ids: Sequence[Sequence[int]], bin_nodes: int) -> list[_Bin]:
    bins: list[_Bin] = []
    for number in sorted(range(len(token_ids)), key=lambda row: list(token_ids[row])):
        row = token_ids[number]
        shared = bins[-1].count_shared(row) if bins else 0
        if not bins or len(bins[-1].tokens) + len(row) - shared > bin_nodes:
            bins.append(_Bin())
            shared = 0
        bins[-1].add(number, row, shared)
    return bins


def _to_pack(bins: Sequence[_Bin]) -> TriePack:
    width, num_ends = len(bins[0].tokens), max(len(one.ends) for one in bins)
    input_ids, depths = (np.zeros((len(bins), width), dtype=np.int64) for _ in range(2))
    ends = np.zeros((len(bins), num_ends), dtype=np.int64)
    visible = np.zeros((len(bins), width, width), dtype=bool)
    visible[:, range(width), range(width)] = True
    for i, one in enumerate(bins):
        input_ids[i, : len(one.tokens)] = one.tokens
        depths[i, : len(one.tokens)] = one.depths
        ends[i, : len(one.ends)] = one.ends
        _mark_ancestors(visible[i], one.parents)
    slots = [i * num_ends + j for i, one in enumerate(bins) for j in range(len(one.ends))]
    rows = [row for one in bins for row in one.rows]
    arrays = (input_ids, depths, visible, ends, np.array(slots), np.array(rows))
    return TriePack(*map(torch.from_numpy, arrays))


def _mark_ancestors(visible: NDArray[np.bool_], parents: Sequence[int]) -> None:
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
