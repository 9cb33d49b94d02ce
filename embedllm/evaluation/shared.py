"""Several ranks encode the sentences of one call together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedllm.distributed import gather_arrays, is_joined, split_evenly
from embedllm.evaluation.sts import Encoder
from embedllm.ranks import current_rank


class SharedEncoder:
    """An encoder of which every rank has one; each encodes a part, and all get all vectors.

    Args:
        encoder: This rank's encoder, of the same weights as the others'.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Returns one embedding per sentence, float32 [N, D], on every rank.

        Args:
            sentences: The same on every rank.
        """
        if not is_joined():
            return self._encoder.encode(sentences)
        rank = current_rank()
        # Sentences that begin alike stay together, for they share what they begin with.
        order = sorted(range(len(sentences)), key=sentences.__getitem__)
        costs = [len(sentences[row]) + 1 for row in order]
        own = split_evenly(costs, rank.world_size)[rank.rank]
        vectors = self._encoder.encode([sentences[order[i]] for i in own])
        gathered = gather_arrays(vectors)
        result = np.empty_like(gathered)
        result[order] = gathered
        return result
