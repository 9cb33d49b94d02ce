"""The language-model head, put back onto a trunk that was loaded without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from embedllm.config import ModelConfig
from embedllm.errors import ModelError
from embedllm.models.backbone import load_language_model, load_model_config
from embedllm.models.structure import base_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def put_head_on(trunk: nn.Module, model: ModelConfig, cache_dir: Path) -> PreTrainedModel:
    """Returns the whole language model; its inside is `trunk` itself, adapter included.

    Everything that the architecture does behind the trunk (a projection, a cap on the logits) is
    done by its own code. A head that is tied to the embeddings costs nothing. Another one is read
    with the model around it, which is then dropped: for a moment that takes the model's memory
    once more.

    Args:
        trunk: All layers of the model, with or without a peft adapter.
        model: Where the head comes from: the base model.
        cache_dir: Where converted models lie.

    Raises:
        ModelError: The trunk is not the inside of that model, or the weights cannot be loaded.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    inside: Any = base_of(trunk)
    embeddings: Any = inside.get_input_embeddings()
    weight = cast(torch.Tensor, embeddings.weight)
    config = load_model_config(model, cache_dir)
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        language_model: Any = AutoModelForCausalLM.from_config(config, dtype=weight.dtype)
    if type(language_model.base_model) is not type(inside):
        raise ModelError(
            f"model.name={model.name!r}: a {type(language_model).__name__} is not built around a "
            f"{type(inside).__name__}, so its head cannot be put back onto it"
        )
    setattr(language_model, language_model.base_model_prefix, inside)
    head: Any = language_model.get_output_embeddings()
    if config.tie_word_embeddings:
        head.weight = weight
    else:
        whole = load_language_model(model, cache_dir, device=weight.device)
        language_model.set_output_embeddings(whole.get_output_embeddings())
    left = [name for name, p in language_model.named_parameters() if p.is_meta]
    if left:
        raise ModelError(f"model.name={model.name!r}: {left[0]} of its head has no weights")
    return cast("PreTrainedModel", language_model.eval())
