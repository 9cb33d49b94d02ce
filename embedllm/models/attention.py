"""Attention for many short rows on a CPU, in 16 bits: two matrix products and a softmax.

torch's fused kernel is made for long sequences. On rows of 22 tokens behind a prefix of 22, in
bfloat16 on one core with AVX512-BF16, it took 2.06 ms a layer where the products take 0.45 ms,
beside 8 ms of linear layers (SmolLM2-135M, 512 tokens). Everywhere else (float32, CUDA, training,
long rows) the fused kernel stays.

Shapes: B rows, A query heads, K key-value heads, L queries, S keys, E head size.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor, nn

NAME: Final = "embedllm"
# Scores are held whole, so long rows would cost memory, and there the fused kernel is faster.
_MAX_SCORES: Final = 64 * 1024
_SUPPORTED: Final = {"softcap": None, "s_aux": None, "position_bias": None, "cache": None}


def use_short_row_attention(trunk: nn.Module) -> None:
    """Makes the trunk compute attention as above wherever it would use torch's fused kernel.

    Does nothing for models that were loaded with another kernel or cannot change theirs.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    model = cast(Any, trunk)
    if model.config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        return
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Has the signature of the library's attention functions; returns [B, L, A, E]."""
    if not _is_fast(query, key, attention_mask, options):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return attended
    assert attention_mask is not None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_short_rows(query, key, value, attention_mask, scale=scale), None


def _is_fast(
    query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]
) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.bfloat16, torch.float16)
        and attention_mask is not None
        and query.shape[2] * key.shape[2] <= _MAX_SCORES
        and not torch.is_grad_enabled()
        and not options.get("dropout")
        and all(options.get(name) is usual for name, usual in _SUPPORTED.items())
    )


def attend_short_rows(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scale: float
) -> Tensor:
    """Returns attention with the softmax in float32, [B, L, A, E].

    Args:
        query: [B, A, L, E].
        key: [B, K, S, E]; A is a multiple of K.
        value: [B, K, S, E].
        mask: [B or 1, 1, L, S], true where a query sees a key, or numbers that are added.
        scale: Factor of the scores.
    """
    num_rows, num_heads, length, size = query.shape
    num_groups = num_heads // key.shape[1]
    # The query heads of one key-value head stand below one another: no key is copied.
    grouped = query.reshape(num_rows, key.shape[1], num_groups * length, size)
    scores = torch.matmul(grouped, key.transpose(2, 3)).float()
    scores = scores.view(num_rows, key.shape[1], num_groups, length, -1).mul_(scale)
    mask = mask.unsqueeze(2)
    if mask.dtype == torch.bool:
        # Not infinity: a row of padding that sees nothing would become NaN.
        scores.masked_fill_(~mask, torch.finfo(torch.float32).min)
    else:
        scores += mask
    weights = scores.softmax(dim=-1).to(value.dtype).view(*grouped.shape[:3], -1)
    attended = torch.matmul(weights, value).view(num_rows, num_heads, length, -1)
    return attended.transpose(1, 2).contiguous()
