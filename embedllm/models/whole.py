"""Whole weights of a model that may be spread over ranks.

FSDP2 keeps DTensors, DeepSpeed's ZeRO-3 empty parameters that carry their shape. Nothing here
imports either library.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from embedllm.distributed import is_joined
from embedllm.ranks import current_rank


def trainable_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Returns names and parameters that require gradients, in the optimizer's order."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Returns the shape of the whole weight; of one in 4 bits, before it was packed."""
    state = getattr(parameter, "quant_state", None)
    return tuple(getattr(parameter, "ds_shape", parameter.shape if state is None else state.shape))


def num_weights(parameters: Iterable[nn.Parameter]) -> int:
    """Returns how many numbers parameters hold, on all ranks together."""
    return sum(math.prod(full_shape(parameter)) for parameter in parameters)


def whole_weight(parameter: nn.Parameter) -> Tensor:
    """Returns the whole weight, on every rank; all ranks have to ask for it."""
    value: Any = parameter.detach()
    if hasattr(parameter, "ds_id"):
        zero = sys.modules["deepspeed"].zero
        with zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return cast(Tensor, value.full_tensor() if hasattr(value, "full_tensor") else value)


def whole_state(module: nn.Module, *, only_trainable: bool) -> dict[str, Tensor] | None:
    """Returns the whole weights by name on rank 0's CPU, for saving, and nothing on the others.

    None on a single process that holds the model as it is.

    Args:
        module: What is saved.
        only_trainable: Leave out the frozen base.
    """
    if not is_joined() and not any(hasattr(p, "ds_id") for p in module.parameters()):
        return None
    state = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or not only_trainable:
            # All ranks give their pieces.
            whole = whole_weight(parameter)
            if current_rank().is_main:
                state[name] = whole.cpu()
    return state
