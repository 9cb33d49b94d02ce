"""Alignment and uniformity of vectors on the sphere (Wang and Isola 2020, arXiv 2005.10242).

Both are of vectors with length 1, and both are better the lower they are: alignment is how far
apart sentences of one meaning lie, uniformity how unevenly all of them fill the sphere. As in
SimCSE (Gao et al. 2021, section 6) the positive pairs are those of STS-B with a high gold score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

# STS-B says of 4 and more: equal but for details that do not matter.
POSITIVE_FROM: Final = 4.0
# Rows of the matrix of all distances at a time.
_CHUNK_SIZE: Final = 1024


@dataclass(frozen=True)
class Geometry:
    """How vectors lie on the sphere.

    Attributes:
        alignment: Mean squared distance of positive pairs, 0 to 4; their equation 4, alpha 2.
        uniformity: Logarithm of the mean of exp(-2 x squared distance) over all pairs of distinct
            sentences, -8 to 0; their equation 5, t 2.
    """

    alignment: float
    uniformity: float


def measure_geometry(
    vectors: NDArray[Any], pairs: Sequence[tuple[int, int]], gold: Sequence[float]
) -> Geometry | None:
    """Returns alignment and uniformity; None where they mean nothing.

    That is without a positive pair, with fewer than two sentences, or when a vector is zero or not
    finite.

    Args:
        vectors: One row for each distinct sentence, [N, D].
        pairs: Rows of the two sentences of every pair.
        gold: Gold score of every pair, 0 to 5.
    """
    positive = [pair for pair, score in zip(pairs, gold, strict=True) if score >= POSITIVE_FROM]
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not positive or len(vectors) < 2 or not (np.isfinite(lengths) & (lengths > 0)).all():
        return None
    unit = vectors / lengths
    left, right = np.array(positive).T
    alignment = np.sum((unit[left] - unit[right]) ** 2, axis=1).mean()
    return Geometry(round(float(alignment), 4), round(_uniformity(unit), 4))


def _uniformity(unit: NDArray[np.float64]) -> float:
    """Returns the logarithm of the mean over all pairs i < j."""
    num = len(unit)
    parts = []
    for start in range(0, num, _CHUNK_SIZE):
        block = unit[start : start + _CHUNK_SIZE]
        # |x - y|^2 = 2 - 2 x.y for vectors of length 1.
        exponents = -4.0 * (1.0 - block @ unit.T)
        is_later = np.arange(num) > np.arange(start, start + len(block))[:, None]
        if is_later.any():
            parts.append(logsumexp(exponents[is_later]))
    return float(logsumexp(parts) - np.log(num * (num - 1) / 2))
