"""Pooling: hidden states of a sequence to one vector.

Shapes: B texts, L tokens, H hidden_size. A mask entry is 1 at a real token. No function here
depends on the padding side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def last_places(mask_BL: Tensor) -> Tensor:
    """Returns the column of each row's last real token, [B]."""
    positions = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    return (positions * (mask_BL != 0)).argmax(dim=1)


def pool_last(hidden_BLH: Tensor, mask_BL: Tensor) -> Tensor:
    """Returns the state at each row's last real token, [B, H] (paper_method 1, step 3)."""
    rows = torch.arange(mask_BL.shape[0], device=mask_BL.device)
    return hidden_BLH[rows, last_places(mask_BL)]


def pool_mean(hidden_BLH: Tensor, mask_BL: Tensor) -> Tensor:
    """Returns the mean over real tokens, [B, H].

    Divides by the number of real tokens; the reference divides by the padded length, which
    makes a vector depend on its batch (paper_method 9, item 9).
    """
    return _weighted(hidden_BLH, (mask_BL != 0).to(torch.float32))


def pool_weighted_mean(hidden_BLH: Tensor, mask_BL: Tensor) -> Tensor:
    """Returns the mean with weights 1, 2, 3, ... along the real tokens, [B, H] (SGPT)."""
    real = (mask_BL != 0).to(torch.float32)
    return _weighted(hidden_BLH, real.cumsum(dim=1) * real)


def _weighted(hidden_BLH: Tensor, weights_BL: Tensor) -> Tensor:
    # Masked states may hold anything, also inf or nan; a product with zero would keep a nan.
    hidden = hidden_BLH.float().masked_fill(weights_BL.unsqueeze(-1) == 0, 0.0)
    weights = weights_BL / weights_BL.sum(dim=1, keepdim=True)
    return torch.einsum("blh,bl->bh", hidden, weights)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "last": pool_last,
    "mean": pool_mean,
    "weighted_mean": pool_weighted_mean,
}
