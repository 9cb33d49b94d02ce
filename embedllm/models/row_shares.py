"""Which rank computes which rows of a batch that all ranks know.

Every rank has the token ids of the whole batch, so each finds its share without asking the others.
Rows that begin alike stay together, because they share positions (`trie.py`), and every rank gets
about as many positions to compute; so neither a last, smaller batch nor texts of different length
make one rank wait for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedllm.distributed import split_evenly


@dataclass(frozen=True)
class RowShares:
    """The rows of a batch, rank by rank.

    Attributes:
        rows: For each rank the rows that it computes, in dictionary order of their tokens.
    """

    rows: tuple[tuple[int, ...], ...]

    @property
    def counts(self) -> list[int]:
        """Rows of each rank."""
        return [len(rows) for rows in self.rows]

    def to_batch_order(self, gathered: Tensor) -> Tensor:
        """Returns vectors that came rank by rank, [B, D], in the order of the batch."""
        order = torch.tensor([row for rows in self.rows for row in rows], device=gathered.device)
        return gathered[order.argsort()]


def share_rows(token_ids: Sequence[Sequence[int]], num_ranks: int) -> RowShares:
    """Splits the rows of a batch among ranks.

    Args:
        token_ids: Unpadded rows, the same on every rank.
        num_ranks: How many ranks; with fewer rows than these the last ones get none.
    """
    order = sorted(range(len(token_ids)), key=lambda row: list(token_ids[row]))
    costs = []
    before: Sequence[int] = ()
    for row in order:
        ids = token_ids[row]
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b),
            min(len(before), len(ids)),
        )
        costs.append(len(ids) - shared + 1)
        before = ids
    ranges = split_evenly(costs, num_ranks)
    return RowShares(tuple(tuple(order[i] for i in part) for part in ranges))
