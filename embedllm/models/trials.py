"""What a trunk can do, found by trying it on a few tokens instead of by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from embedllm.log import get_logger
from embedllm.models.packing import Pack, pack
from embedllm.models.trie import pack_tries

if TYPE_CHECKING:
    from embedllm.models.embedder import Embedder

_log = get_logger(__name__)

# Far above the rounding of 16 bits, far below what a wrong mask does.
_TOLERANCE: Final = 0.1
_ROWS: Final = [[5, 6, 7], [5, 6, 8, 7], [5, 9]]
# What libraries raise for arguments or shapes that they do not take.
_REFUSALS: Final = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, StopIteration)

_AT_ALL_PLACES: Final = "the last layer runs at all places"


@dataclass(frozen=True)
class Findings:
    """What a trunk was found to be able to do.

    Attributes:
        reads_early: See `reads_early`.
        takes_tries: See `takes_tries`.
    """

    reads_early: bool
    takes_tries: bool


def takes_tries(embedder: Embedder) -> bool:
    """Whether the trunk takes masks and positions as they are.

    Such a trunk computes its attention from what it is given and nothing else: no slopes by
    distance (ALiBi), no convolution and no recurrent state.
    """
    [trie] = pack_tries(_ROWS, max_tokens=16, bin_nodes=16)
    order = trie.rows.argsort()
    return _gives_the_same(
        embedder, "no trie", lambda device: embedder.forward_trie(trie.to(device)).cpu()[order]
    )


def reads_early(embedder: Embedder) -> bool:
    """Whether the trunk's last layer can be computed at the read places alone."""
    order = _pack().rows.argsort()
    return _gives_the_same(
        embedder, _AT_ALL_PLACES, lambda device: _read_early(embedder, device).cpu()[order]
    )


def runs_early(embedder: Embedder) -> bool:
    """Whether the trunk's last layer runs at the read places alone, whatever comes out.

    Unlike `reads_early` it looks at no number, so that fake tensors will do.
    """
    try:
        with torch.no_grad():
            _read_early(embedder, next(embedder.trunk.parameters()).device)
    except _REFUSALS as error:
        _log.debug("%s: %s", _AT_ALL_PLACES, error)
        return False
    return True


def _read_early(embedder: Embedder, device: torch.device) -> Tensor:
    batch = _pack().to(device)
    vectors: Tensor = embedder(batch.input_ids, batch.attention_mask, read_early=True)
    return vectors


def _pack() -> Pack:
    [packed] = pack(_ROWS, max_tokens=16)
    return packed


def _gives_the_same(
    embedder: Embedder, otherwise: str, run: Callable[[torch.device], Tensor]
) -> bool:
    """Whether a way to run some rows gives the vectors that the plain way gives."""
    device = next(embedder.trunk.parameters()).device
    packed = _pack().to(device)
    was_training = embedder.training
    embedder.eval()
    try:
        with torch.no_grad():
            plain = embedder(packed.input_ids, packed.attention_mask, read_early=False)
            expected = plain[packed.rows.argsort()].cpu()
            found = run(device)
    except _REFUSALS as error:
        _log.debug("%s: %s", otherwise, error)
        return False
    finally:
        embedder.train(was_training)
    moved = (found - expected).norm(dim=1) / expected.norm(dim=1)
    return bool((moved < _TOLERANCE).all())
