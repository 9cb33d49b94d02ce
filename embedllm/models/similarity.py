"""Cosines between vectors, and what a caller may pass as texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedllm.errors import DataError


def to_texts(sentences: str | Sequence[str]) -> list[str]:
    """Returns the sentences as a list, one of a single sentence.

    Raises:
        DataError: One is no text: a missing value of a table, for example.
    """
    texts: list[Any] = [sentences] if isinstance(sentences, str) else list(sentences)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise DataError(f"sentence {number} is {text!r} ({kind}), not a text; use '' for none")
    return texts


def to_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Returns [N, D] vectors divided by their lengths; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: np.ndarray = (vectors / np.where(lengths == 0, 1.0, lengths)).astype(vectors.dtype)
    return unit


def cosine_matrix(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the cosine of each row of [N, D] with each of [M, D], float32 [N, M].

    Computed in float64; the cosine with a zero vector is 0.
    """
    left, right = (to_unit_length(side.astype(np.float64)) for side in (left, right))
    cosines: np.ndarray = np.clip(left @ right.T, -1.0, 1.0).astype(np.float32)
    return cosines
