"""The decoder trunk, with weights from a hub, a folder, a GGUF package or random numbers.

The trunk is the model without its language-model head: PromptEOL needs the state before the
head, and the logits over the whole vocabulary would be the largest tensor of the forward pass.
Nothing here looks at a model's name.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from embedllm.config import ModelConfig
from embedllm.errors import ModelError
from embedllm.models.attention import use_short_row_attention
from embedllm.models.checkpoint_files import find_files, open_checkpoint
from embedllm.models.linear import use_onednn_linear
from embedllm.models.quantization import check_quantization, mark_quantized, quantize_layers
from embedllm.models.sources import (
    as_architecture_error,
    as_model_error,
    hub_options,
    load_model_config,
    load_tokenizer,
    max_positions,
    resolve_device,
    resolve_dtype,
    source_of,
)
from embedllm.models.structure import (
    decoder_layers,
    forward_arguments,
    keep_layers,
    resolve_layer,
)
from embedllm.models.weight_stream import (
    Attachment,
    CheckpointWeights,
    RandomWeights,
    Shard,
    Weights,
    blocks_of,
    build_without_weights,
    has_tied_weights,
    place_blocks,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "check_is_causal",
    "decoder_layers",
    "forward_arguments",
    "keep_layers",
    "load_language_model",
    "load_model_config",
    "load_tokenizer",
    "load_trunk",
    "max_positions",
    "resolve_device",
    "resolve_dtype",
    "resolve_layer",
]


def load_trunk(
    model: ModelConfig,
    cache_dir: Path,
    *,
    device: torch.device,
    num_tokens: int | None = None,
    attachment: Attachment | None = None,
    shard: Shard | None = None,
) -> nn.Module:
    """Returns the decoder trunk in evaluation mode on `device`.

    Its weights come block by block (`weight_stream.py`), so the most that is held, on the host as
    on the device, is one block beside what stays. With `model.layer` other than -1 the layers above
    it are not even read.

    Args:
        model: The backbone's config.
        cache_dir: Where converted models lie.
        device: Where the weights go.
        num_tokens: Size of the tokenizer, checked against the embedding table.
        attachment: What is put onto it, for example an adapter; None for the trunk as it is.
        shard: Cuts each block down to this process' share; None to keep it whole. What is in pieces
            may need the other processes, or an engine, to run, so the caller checks beforehand, on
            `sketch_trunk`, that the model does not read ahead.

    Raises:
        ConfigError: The quantisation, or what is attached, does not fit.
        ModelError: The weights cannot be loaded, or the tokenizer has ids the model lacks.
    """
    check_quantization(model)
    config = load_model_config(model, cache_dir)
    _check_num_tokens(num_tokens, config)
    layer = resolve_layer(model.layer, config.num_hidden_layers)
    num_layers = None if layer == -1 else layer
    dtype = resolve_dtype(model.dtype, device)
    trunk, weights = _open(model, config, cache_dir, dtype)
    place = partial(place_blocks, trunk, device=device)
    kind, attach = model.quantization, None
    if attachment is not None:
        attach = attachment.attach
    if shard is None or kind != "none" or (attachment is not None and attachment.reads_weights):
        convert = None
        if kind != "none":
            _check_unquantized(trunk, model)
            convert = partial(quantize_layers, trunk, kind=kind, dtype=dtype, device=device)
        place(weights=weights, num_layers=num_layers, convert=convert)
        if kind != "none":
            mark_quantized(trunk, kind)
        if shard is None:
            check_is_causal(trunk, model.name)
        weights, num_layers = None, None
    root = place(weights=weights, num_layers=num_layers, attach=attach, shard=shard)
    use_short_row_attention(trunk)
    use_onednn_linear(trunk)
    return root


def _check_unquantized(trunk: nn.Module, model: ModelConfig) -> None:
    if getattr(trunk.config, "quantization_config", None):
        raise ModelError(
            f"model.name={model.name!r} is saved in a quantised form already; use "
            "model.quantization=none to take it as it is"
        )


def _open(
    model: ModelConfig, config: PreTrainedConfig, cache_dir: Path, dtype: torch.dtype
) -> tuple[nn.Module, Weights | None]:
    """Returns a trunk and what will fill it; None when it is filled already."""
    from transformers import AutoModel

    guard = partial(as_model_error, model, "model.name", model.name)
    is_random = model.init == "random"
    with as_architecture_error() if is_random else guard():
        trunk = build_without_weights(config, dtype) if _is_usual(model, config) else None
    weights: Weights | None = None
    if trunk is not None and not has_tied_weights(trunk):
        if is_random:
            return trunk, RandomWeights(trunk, model.init_seed)
        with guard():
            files = find_files(source_of(model, cache_dir), revision=model.revision)
        if (checkpoint := open_checkpoint(trunk, files, guard)) is not None:
            _check_complete(model, checkpoint.missing)
            return trunk, CheckpointWeights(checkpoint)
    return _load(AutoModel, model, config, cache_dir, dtype=dtype), weights


def _is_usual(model: ModelConfig, config: PreTrainedConfig) -> bool:
    """Whether the library's own code makes the model, from plain numbers."""
    is_own_code = not (model.trust_remote_code and getattr(config, "auto_map", None))
    return is_own_code and not getattr(config, "quantization_config", None)


def sketch_trunk(model: ModelConfig, cache_dir: Path, *, device: torch.device) -> nn.Module:
    """Returns the trunk with one layer and random weights: enough to see how it computes.

    Raises:
        ModelError: The architecture cannot be built, or the model reads ahead.
    """
    config = copy.deepcopy(load_model_config(model, cache_dir))
    with as_architecture_error():
        trunk = build_without_weights(config, resolve_dtype(model.dtype, device))
    place_blocks(trunk, device=device, weights=RandomWeights(trunk, seed=0), num_layers=1)
    check_is_causal(trunk, model.name)
    use_short_row_attention(trunk)
    return trunk


def largest_weight(model: ModelConfig, cache_dir: Path) -> int:
    """Returns how many numbers the largest parameter of the trunk holds."""
    with as_architecture_error():
        trunk = build_without_weights(load_model_config(model, cache_dir), torch.float32)
    return max(parameter.numel() for parameter in trunk.parameters())


def load_language_model(
    model: ModelConfig,
    cache_dir: Path,
    *,
    device: torch.device,
    num_tokens: int | None = None,
) -> PreTrainedModel:
    """Returns the whole model in evaluation mode, with the head that predicts the next token.

    It has all its layers and 16 or 32 bits, whatever `model.layer` and `model.quantization` say.

    Args:
        model: The backbone's config.
        cache_dir: Where converted models lie.
        device: Where the weights go.
        num_tokens: Size of the tokenizer, checked against the embedding table.

    Raises:
        ModelError: The weights cannot be loaded, the tokenizer has ids the model lacks, or the
            model reads ahead.
    """
    from transformers import AutoModelForCausalLM

    config = load_model_config(model, cache_dir)
    _check_num_tokens(num_tokens, config)
    dtype = resolve_dtype(model.dtype, device)
    language_model = _load(AutoModelForCausalLM, model, config, cache_dir, dtype=dtype).to(device)
    trunk = cast(nn.Module, language_model.base_model)
    if model.init == "random":
        # The same numbers as in the trunk alone.
        weights = RandomWeights(trunk, model.init_seed)
        for block in blocks_of(trunk):
            weights.fill(block, device)
    check_is_causal(trunk, model.name)
    return cast("PreTrainedModel", language_model)


def _load(
    auto_class: Any,
    model: ModelConfig,
    config: PreTrainedConfig,
    cache_dir: Path,
    *,
    dtype: torch.dtype,
) -> nn.Module:
    """Returns a complete model of one of transformers' auto classes, on the host, at once."""
    loaded: nn.Module
    if model.init == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(model.init_seed)
            with as_architecture_error():
                loaded = auto_class.from_config(config, dtype=dtype)
    else:
        with as_model_error(model, "model.name", model.name):
            loaded, report = auto_class.from_pretrained(
                source_of(model, cache_dir),
                config=config,
                dtype=dtype,
                output_loading_info=True,
                **hub_options(model),
            )
        _check_complete(model, report["missing_keys"])
    return loaded.eval()


def _check_num_tokens(num_tokens: int | None, config: PreTrainedConfig) -> None:
    if num_tokens is not None and num_tokens > config.vocab_size:
        raise ModelError(
            f"the tokenizer has {num_tokens} tokens but the model only {config.vocab_size}; "
            "set model.tokenizer to the model's own"
        )


def _check_complete(model: ModelConfig, missing_keys: Collection[str]) -> None:
    """Raises ModelError for missing weights, which transformers fills with random numbers."""
    if missing_keys:
        raise ModelError(
            f"model.name={model.name!r} lacks {len(missing_keys)} weights of its architecture, for "
            f"example {min(missing_keys)}; the download is incomplete or of another model"
        )


@torch.inference_mode()
def check_is_causal(trunk: nn.Module, name: str) -> None:
    """Tries on three tokens that a token leaves the states of earlier positions alone.

    Some encoders (BERT) are registered as language models too and their config does not tell.

    Raises:
        ModelError: The model reads ahead.
    """
    device = next(trunk.parameters()).device
    input_ids = torch.tensor([[5, 6, 7], [5, 6, 8]], device=device)
    states = trunk(input_ids, use_cache=False).last_hidden_state.float()
    if not torch.allclose(states[0, :2], states[1, :2], rtol=1e-2, atol=1e-3):
        raise ModelError(
            f"model.name={name!r} reads ahead: earlier positions change with later tokens, so "
            "it is an encoder and not a decoder-only (causal) language model"
        )
