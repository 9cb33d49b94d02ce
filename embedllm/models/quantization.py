"""Frozen bases in 4 or 8 bits: which layers, what fits together, and what a base is called.

Every linear layer of the trunk is quantised, as in QLoRA (Dettmers et al. 2023); embeddings and
norms keep the type of `model.dtype`, in which products are computed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final, cast

import torch
from torch import nn

from embedllm.config import AdapterConfig, ModelConfig
from embedllm.config.quantization import check_quantized_adapter
from embedllm.errors import ConfigError, ModelError
from embedllm.models.sources import resolve_dtype

# What transformers calls such models and peft looks for.
_MARKS: Final = {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}


def check_quantization(model: ModelConfig, adapter: AdapterConfig | None = None) -> None:
    """Checks `model.quantization` against the rest, without loading anything.

    Args:
        model: The backbone's config.
        adapter: What is to be trained on it; None for nothing.

    Raises:
        ConfigError: A combination that cannot work, or bitsandbytes is not installed.
    """
    if model.quantization == "none":
        return
    if adapter is not None:
        check_quantized_adapter(model.quantization, adapter.method)
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization={model.quantization} needs bitsandbytes, which is not installed; "
            "`pip install bitsandbytes`, or use model.quantization=none"
        )


def quantize_layers(
    trunk: nn.Module,
    members: Sequence[tuple[str, nn.Module]],
    *,
    kind: str,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Replaces the linear layers among some modules of a trunk by quantised ones, one at a time.

    Args:
        trunk: The trunk.
        members: Modules under their names in it.
        kind: `nf4` or `int8`.
        dtype: Type in which they compute.
        device: Where they go.
    """
    from transformers.pytorch_utils import Conv1D

    from embedllm.models.bitsandbytes_layers import Int8Linear, Nf4Linear

    make: Any = {"nf4": Nf4Linear, "int8": Int8Linear}[kind]
    for name, layer in members:
        if type(layer) is nn.Linear:
            weight = layer.weight.data
        elif isinstance(layer, Conv1D):
            # GPT-2 keeps its matrices the other way round.
            weight = layer.weight.data.t().contiguous()
        else:
            continue
        made = make(weight, layer.bias, dtype=dtype, device=device)
        trunk.set_submodule(name, made.train(layer.training))


def mark_quantized(trunk: nn.Module, kind: str) -> None:
    """Says on a trunk that it is quantised, as transformers does and peft expects.

    Raises:
        ModelError: It has no linear layer that was.
    """
    kinds = {type(layer).__name__ for layer in trunk.modules()}
    if not kinds & {"Nf4Linear", "Int8Linear"}:
        raise ModelError(
            f"model.quantization={kind} found no linear layer in {type(trunk).__name__}; use "
            "model.quantization=none"
        )
    setattr(trunk, _MARKS[kind], True)


def quantization_of(trunk: nn.Module) -> str:
    """Returns `none`, `nf4` or `int8`, looking through an adapter."""
    base = cast(Any, trunk)
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    return next((kind for kind, mark in _MARKS.items() if getattr(base, mark, False)), "none")


def describe_weights(trunk: nn.Module) -> str:
    """Returns what the weights of a trunk are: `float32`, or `nf4 (float32)`."""
    base = cast(Any, trunk)
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    return _describe(quantization_of(base), base.get_input_embeddings().weight.dtype)


def describe_dtype(model: ModelConfig, device: torch.device) -> str:
    """Returns the same of a model that is yet to be loaded."""
    return _describe(model.quantization, resolve_dtype(model.dtype, device))


def described_quantization(description: str) -> str:
    """Returns the quantisation that such a description tells, `none` for a plain type."""
    kind, _, dtype = description.partition(" ")
    return kind if dtype else "none"


def _describe(quantization: str, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if quantization == "none" else f"{quantization} ({name})"
