"""InfoNCE with in-batch and hard negatives (paper_method 3.2).

Shapes: N anchors, M hard negatives, D embedding_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ContrastiveOutput:
    """Result of one contrastive batch.

    Attributes:
        loss: Scalar mean over anchors, float32.
        accuracy: Scalar share of anchors that score their own positive highest, in 0..1.
        num_negatives: Candidates per anchor that are not its positive: N - 1 + M.
    """

    loss: Tensor
    accuracy: Tensor
    num_negatives: int


class InfoNCE(nn.Module):
    """Cross-entropy over the cosines of an anchor with all positives and hard negatives.

    loss_i = -log( exp(cos(h_i, p_i)/t) / sum_j [exp(cos(h_i, p_j)/t) + exp(cos(h_i, n_j)/t)] )

    Args:
        temperature: t, greater than 0. The code of the paper has 0.05 (paper_method 3.2).
        hard_negative_weight: Added to the logit of an anchor's own hard negatives, so 0 keeps
            them as ordinary candidates; it is not a switch.
    """

    def __init__(self, temperature: float = 0.05, hard_negative_weight: float = 0.0) -> None:
        super().__init__()
        # Written so that nan is refused as well.
        if not temperature > 0:
            raise ValueError(f"temperature must be greater than 0, got {temperature}")
        self.temperature = temperature
        self.hard_negative_weight = hard_negative_weight

    def forward(
        self,
        anchors_ND: Tensor,
        positives_ND: Tensor,
        negatives_MD: Tensor | None = None,
        negative_owner_M: Tensor | None = None,
        *,
        first: int = 0,
    ) -> ContrastiveOutput:
        """Returns the loss of one contrastive batch.

        Args:
            anchors_ND: Anchors; of a batch that several ranks share, those that this one scores.
            positives_ND: Row `first` + i is the positive of anchor i.
            negatives_MD: Hard negatives of the whole batch; any number per anchor.
            negative_owner_M: For each hard negative the row of its positive; needed only when
                `hard_negative_weight` is not 0.
            first: Row of the first anchor's positive.

        Similarities are computed in float32 at least, whatever the inputs are: lower precision
        creates ties.
        """
        candidates = (
            positives_ND if negatives_MD is None else torch.cat([positives_ND, negatives_MD])
        )
        compute = torch.promote_types(anchors_ND.dtype, torch.float32)
        with torch.autocast(device_type=anchors_ND.device.type, enabled=False):
            anchors = F.normalize(anchors_ND.to(compute), dim=-1)
            logits = anchors @ F.normalize(candidates.to(compute), dim=-1).T / self.temperature
        num_anchors = anchors_ND.shape[0]
        if self.hard_negative_weight and negatives_MD is not None:
            if negative_owner_M is None:
                raise ValueError("hard_negative_weight needs negative_owner_M")
            anchor_N = torch.arange(first, first + num_anchors, device=logits.device)
            own = (anchor_N.unsqueeze(1) == negative_owner_M).to(logits.dtype)
            bonus = torch.cat([logits.new_zeros(num_anchors, len(positives_ND)), own], dim=1)
            logits = logits + self.hard_negative_weight * bonus
        # Row i of the logits has its positive in column first + i.
        target = torch.arange(first, first + num_anchors, device=logits.device)
        accuracy = (logits.detach().argmax(dim=1) == target).float().mean()
        return ContrastiveOutput(F.cross_entropy(logits, target), accuracy, candidates.shape[0] - 1)
