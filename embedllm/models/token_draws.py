"""Random numbers that belong to a token and what stands before it, wherever it is computed.

A usual generator gives the next number to whoever asks next, so dropout would depend on how texts
are packed, on what they share and on how many ranks there are. Here the numbers of a token are a
hash of (draw of the step, the tokens up to and with it, the layer that asks). The same beginning of
a text has the same numbers in every text, pack and rank, and again when it is recomputed; so
sharing beginnings, packing and distributing change nothing but the order of sums.

Shapes: B rows, L places, N nodes, P prefix tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

# Odd numbers with well-mixed bits (the golden ratio's and the mixers of splitmix64), as int64.
_MULTIPLIERS: Final = tuple(
    value - 2**64 for value in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)
)
_FIRST, _SECOND, _PLACE = _MULTIPLIERS


@dataclass(frozen=True)
class TokenDraws:
    """What decides the numbers of a pass.

    Attributes:
        step: [] int64, drawn once for a step, the same on all ranks.
        before: [] int64, the sum over the tokens of the prefix.
    """

    step: Tensor
    before: Tensor

    @classmethod
    def new(cls, device: torch.device) -> TokenDraws:
        """Returns the draws of a new step, from torch's generator on the CPU."""
        step = torch.randint(2**62, ()).to(device)
        return cls(step, torch.zeros_like(step))

    def behind(self, input_ids: Tensor) -> TokenDraws:
        """Returns the draws of what stands behind these tokens, [P] int64."""
        positions = torch.arange(len(input_ids), device=input_ids.device)
        return TokenDraws(self.step, self._values(input_ids, positions).sum())

    def of_rows(self, input_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Returns a number for each token of padded rows.

        Args:
            input_ids: [B, L].
            positions: [B, L], counted from the beginning of the text, prefix included.
            mask: [B, L], 1 at real tokens.
        """
        values = self._values(input_ids, positions) * mask
        return scramble(values.cumsum(dim=1) + self.before)

    def of_nodes(self, input_ids: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Returns a number for each node of tries.

        Args:
            input_ids: [B, N].
            positions: [B, N].
            visible: [B, N, N], true where the first node has the second before it, or is it.
        """
        values = self._values(input_ids, positions).unsqueeze(1)
        return scramble(torch.where(visible, values, 0).sum(dim=-1) + self.before)

    def _values(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Returns a number for each token at its position, without what stands before it."""
        return scramble(input_ids * _FIRST + positions * _PLACE + self.step)


def scramble(numbers: Tensor) -> Tensor:
    """Returns hashes of int64 numbers: every bit of the result depends on all bits of a number.

    The numbers are overwritten where their memory is in one piece.
    """
    numbers = numbers.contiguous()
    halves = numbers.view(torch.int32).view(*numbers.shape, 2)
    low, high = halves.unbind(dim=-1)
    # Products carry bits upwards alone; what is between them brings bits down again.
    low.bitwise_xor_(high)
    for multiplier in (_FIRST, _SECOND):
        numbers.mul_(multiplier)
        low.bitwise_xor_(high)
    return numbers


_current: ContextVar[Tensor | None] = ContextVar("token_numbers", default=None)


def current_numbers() -> Tensor | None:
    """Returns the numbers of the tokens that are being computed, [B, L]; None for usual draws."""
    return _current.get()


@contextmanager
def drawing_by(numbers: Tensor | None) -> Iterator[None]:
    """Gives layers inside the block the numbers of the tokens they compute, [B, L]."""
    token = _current.set(numbers)
    try:
        yield
    finally:
        _current.reset(token)


def draw_from_here_by(numbers: Tensor) -> None:
    """Gives layers in the rest of the surrounding block the numbers of other tokens, [B, R]."""
    _current.set(numbers)


def random_words(numbers: Tensor, *, width: int, stream: int) -> Tensor:
    """Returns random bits for each token, [..., width] int64.

    Args:
        numbers: [...], numbers of tokens.
        width: Words of 64 bits for each.
        stream: Which layer asks; each gets other bits.
    """
    columns = torch.arange(width, device=numbers.device).mul_(_PLACE)
    start = scramble(numbers + (stream + 1) * 0x5851F42D4C957F2D % 2**62)
    return scramble(start.unsqueeze(-1) + columns)
