"""Bytes of quantised matrices, as bitsandbytes keeps them."""

from __future__ import annotations

from typing import Final

# Dettmers et al. 2023 (arXiv 2305.14314, section 3): blocks of 64 weights share a scale, blocks of
# 256 scales share a scale of their own.
_BLOCK: Final = 64
_BLOCK_OF_SCALES: Final = 256
_FLOAT32: Final = 4
# Every matrix carries the 16 values of its type, the 256 of its scales' type, and their mean.
_TABLES: Final = _FLOAT32 * (16 + 256 + 1)


def nf4_bytes(num_weights: int) -> int:
    """Returns the bytes of a matrix in NF4 with double quantisation: 4.127 bits for a weight."""
    num_scales = -(-num_weights // _BLOCK)
    scales_of_scales = -(-num_scales // _BLOCK_OF_SCALES)
    return -(-num_weights // 2) + num_scales + _FLOAT32 * scales_of_scales + _TABLES


def int8_bytes(num_weights: int, *, num_rows: int) -> int:
    """Returns the bytes of a matrix in 8 bits with one float32 scale for each row."""
    return num_weights + _FLOAT32 * num_rows
