"""Which examples a step is measured with."""

from __future__ import annotations

import numpy as np

from embedllm.data.examples import TrainingData
from embedllm.data.schema import Example


def draw_examples(data: TrainingData, number: int, *, seed: int) -> list[Example]:
    """Returns so many examples, or all there are, drawn by the seed.

    Files are often sorted, so the first rows would be a kind of data of their own.
    """
    rows = np.random.default_rng(seed).permutation(len(data.examples))[:number]
    return [data.examples[row] for row in rows]
