"""How many parameters the models of a report have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from embedllm.config import ModelConfig
from embedllm.errors import EmbedllmError
from embedllm.log import get_logger, quiet_libraries

_log = get_logger(__name__)


def count_models(models: Mapping[str, Mapping[str, Any]], cache_dir: Path) -> dict[str, int]:
    """Returns the number of weights of every model that can be counted; a warning for the others.

    Args:
        models: The config `model` by any name.
        cache_dir: `paths.cache_dir`, for models that are converted.
    """
    if models:
        quiet_libraries()
    sizes = {}
    for name, values in models.items():
        try:
            sizes[name] = _count_parameters(values, cache_dir)
        except EmbedllmError as error:
            _log.warning("%s is not on the curve: %s", name, error)
    return sizes


def _count_parameters(values: Mapping[str, Any], cache_dir: Path) -> int:
    """Returns how many weights a model has, without loading one."""
    import torch
    from transformers import AutoModel

    from embedllm.models.backbone import load_model_config

    # Records of other versions may have other keys.
    known = {field.name for field in fields(ModelConfig)}
    model = ModelConfig(**{key: value for key, value in values.items() if key in known})
    # A known architecture needs no hub.
    model = replace(model, init="random") if model.architecture else model
    config = load_model_config(model, cache_dir)
    with torch.device("meta"):
        trunk = AutoModel.from_config(config)
    return sum(parameter.numel() for parameter in trunk.parameters())
