"""What a decoder trunk is made of: its layers, found by their number, and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any, cast

from torch import nn

from embedllm.errors import ModelError


def resolve_layer(layer: int, num_layers: int) -> int:
    """Returns the layer counted from the input, or -1 for the model's own output.

    The library's tuple of hidden states has an entry before the first layer and one after
    each; only the last one is after the final norm, so the last layer is the output.

    Raises:
        ModelError: There is no such layer.
    """
    if not (1 <= layer <= num_layers or -num_layers <= layer <= -1):
        raise ModelError(
            f"model.layer={layer} does not exist; this model has layers 1 to {num_layers} "
            f"(or -1 to -{num_layers}, counted from the output)"
        )
    position = layer % (num_layers + 1)
    return -1 if position == num_layers else position


def decoder_layers(trunk: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """Returns (parent, attribute, list) of the transformer layers, found by their number.

    Raises:
        ModelError: No module list of the right length.
    """
    num_layers = cast(Any, trunk.config).num_hidden_layers
    for parent in trunk.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == num_layers:
                return parent, name, child
    raise ModelError(f"no list of {num_layers} layers in {type(trunk).__name__}")


def keep_layers(trunk: nn.Module, num_layers: int) -> None:
    """Removes, in place, all layers above the first `num_layers`.

    The trunk's own loop may be driven by its config, so that number is changed with the list.
    """
    parent, name, layers = decoder_layers(trunk)
    setattr(parent, name, layers[:num_layers])
    for module in trunk.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "num_hidden_layers"):
            config.num_hidden_layers = num_layers
            # Models that mix sliding and full attention list the kind of every layer.
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:num_layers]


def forward_arguments(trunk: nn.Module) -> Collection[str]:
    """Returns the names of what the trunk's forward takes, looking through an adapter."""
    # A peft model passes what it does not know on to the model inside.
    return inspect.signature(base_of(trunk).forward).parameters.keys()


def base_of(trunk: nn.Module) -> nn.Module:
    """Returns the trunk inside an adapter, whose modules the adapter may have changed in place."""
    has_adapter = hasattr(trunk, "get_base_model")
    return cast(nn.Module, cast(Any, trunk).get_base_model()) if has_adapter else trunk
