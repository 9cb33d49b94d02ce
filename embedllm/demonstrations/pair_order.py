"""The order in which a search scores the pairs of a task: every beginning of it is balanced.

Scores on the first 100 pairs stand for the scores on all of them only if those 100 have low,
middle and high gold scores as all have. So the pairs are ranked by gold score, and the ranks are
taken in the order of van der Corput (1935): the first half of the sequence covers every second
rank, its first half every fourth, and so on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def build_pair_order(gold: Sequence[float], *, seed: int) -> NDArray[np.int64]:
    """Returns a permutation of the pairs of which every prefix covers the gold scores evenly.

    Of any 2^j-th part of the ranks, a prefix of n pairs holds n / 2^j of them, up to the rounding
    of the sequence to a length that is no power of two.

    Args:
        gold: Gold score of each pair, in file order.
        seed: Decides the order among equal scores, and where the sequence starts.

    Returns:
        Positions in file order, int64 [N].
    """
    num_pairs = len(gold)
    by_gold = sorted(range(num_pairs), key=lambda pair: (gold[pair], _digest(seed, str(pair))))
    num_bits = max(num_pairs - 1, 1).bit_length()
    # A digital shift keeps the sequence even, and gives each seed its own subsets.
    shift = int.from_bytes(_digest(seed, "shift"), "big") % (1 << num_bits)
    ranks = (_reverse_bits(i, num_bits) ^ shift for i in range(1 << num_bits))
    return np.array([by_gold[rank] for rank in ranks if rank < num_pairs], dtype=np.int64)


def _reverse_bits(value: int, num_bits: int) -> int:
    return int(f"{value:0{num_bits}b}"[::-1], 2)


def _digest(seed: int, text: str) -> bytes:
    # A hash rather than a generator: the same in every version of every library.
    return hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()
