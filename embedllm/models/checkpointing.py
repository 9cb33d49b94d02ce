"""Activation checkpointing: states are computed again in the backward pass instead of kept.

The library's own switch turns off keys and values of earlier tokens, which the shared prefix needs
(`prefix.py`); here both work together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embedllm.models.backbone import decoder_layers
from embedllm.models.token_draws import current_numbers, drawing_by


def checkpoint_layers(trunk: nn.Module) -> None:
    """Makes every transformer layer keep its input alone while gradients are recorded.

    Memory for states is then one layer's instead of all layers'; time grows by about a third. The
    numbers are the same, also with dropout.

    Raises:
        ModelError: The trunk's layers are not found.
    """
    for layer in decoder_layers(trunk)[2]:
        layer.forward = partial(_forward, layer.forward)


def _forward(forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **keywords)
    run = partial(_run, forward, current_numbers())
    # The kind that needs no input with gradient: with an adapter only weights have one.
    return checkpoint(run, *arguments, use_reentrant=False, **keywords)


def _run(
    forward: Callable[..., Any], numbers: Tensor | None, *arguments: Any, **keywords: Any
) -> Any:
    if current_numbers() is numbers:
        return forward(*arguments, **keywords)
    # The second run is not inside the pass, which is over by then.
    with drawing_by(numbers):
        return forward(*arguments, **keywords)
