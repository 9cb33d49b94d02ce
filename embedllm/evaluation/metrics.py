"""Cosine similarity of pairs and Spearman's rank correlation, both in float64."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from embedllm.log import get_logger

logger = get_logger(__name__)

# Pairs upcast to float64 at a time: bounds the extra memory at 3 x 1024 x D x 8 bytes, which is
# 0.2 GiB for the widest OPT (9216), where all SICK pairs at once would take 1 GiB.
_CHUNK_SIZE: Final = 1024


def cosine_similarity_pairs(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the cosine of `a[i]` and `b[i]` for every i.

    Equal rows give exactly 1.0 and the order of the arguments does not matter, so pairs that are
    equally similar stay tied and rounding noise does not rank them.

    Args:
        a: embeddings, [N, D], usually float32; computed in float64.
        b: embeddings, [N, D].

    Returns:
        Similarities in -1..1 up to rounding, float64 [N]. A zero vector gives 0; a row with a NaN
        or an infinity gives NaN.

    Raises:
        ValueError: the arrays are not two-dimensional or differ in shape.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"Expected two arrays of one shape [N, D], got {a.shape} and {b.shape}.")
    similarities = np.zeros(len(a), dtype=np.float64)
    for start in range(0, len(a), _CHUNK_SIZE):
        rows = slice(start, start + _CHUNK_SIZE)
        left, right = a[rows].astype(np.float64), b[rows].astype(np.float64)
        with np.errstate(invalid="ignore"):  # inf / inf is the NaN promised above
            dots = np.sum(left * right, axis=1)
            squares = np.sum(left * left, axis=1) * np.sum(right * right, axis=1)
            # One root of the product: sqrt(s * s) is exactly s, sqrt(s) * sqrt(s) is not.
            norms = np.sqrt(squares)
            np.divide(dots, norms, out=similarities[rows], where=norms != 0)
    return similarities


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Returns Spearman's rank correlation, ties by average rank (Spearman 1904, as in SentEval).

    Args:
        x: similarities, [N]; NaN counts as 0, as in SentEval, with a logged warning.
        y: gold scores, [N], without NaN.

    Returns:
        The correlation in -1..1. Constant values on either side have none: 0.0 and a warning, so
        that a collapsed encoder gets a score and does not turn the average into NaN.

    Raises:
        ValueError: the inputs are not one-dimensional, differ in length or are empty, or `y` has
            a NaN.
    """
    similarities, scores = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if similarities.ndim != 1 or similarities.shape != scores.shape or similarities.size == 0:
        raise ValueError(
            "Expected two non-empty vectors of one length, got shapes "
            f"{similarities.shape} and {scores.shape}."
        )
    if np.isnan(scores).any():
        raise ValueError("The gold scores contain NaN.")
    is_nan = np.isnan(similarities)
    if is_nan.any():
        logger.warning(
            "%d of %d similarities are NaN and count as 0: the encoder returned NaN or infinite "
            "embeddings.",
            int(is_nan.sum()),
            similarities.size,
        )
        similarities = np.where(is_nan, 0.0, similarities)
    for what, values in (("similarities", similarities), ("gold scores", scores)):
        if (values == values[0]).all():
            logger.warning(
                "All %d %s are equal: Spearman is undefined and reported as 0.", values.size, what
            )
            return 0.0
    return float(stats.spearmanr(similarities, scores).statistic)
