"""Configuration or adapter folder to a ready encoder."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from embedllm.config import ModelConfig, PromptConfig
from embedllm.errors import ConfigError
from embedllm.log import get_logger
from embedllm.models.adapter_folder import (
    read_description,
    saved_adapter,
    verify_probe,
)
from embedllm.models.backbone import (
    load_model_config,
    load_tokenizer,
    load_trunk,
    max_positions,
    resolve_layer,
    sketch_trunk,
)
from embedllm.models.embedder import Embedder
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.spreading import Spreading
from embedllm.models.weight_stream import Attachment
from embedllm.prompts.template import Prompt, build_more_prompts, build_prompt

_log = get_logger(__name__)


def load_encoder(
    model: ModelConfig,
    prompt: PromptConfig,
    cache_dir: Path,
    *,
    device: torch.device,
    tokens_per_batch: int | None = None,
    share_prefix: bool = True,
    attachment: Attachment | None = None,
    spreading: Spreading | None = None,
) -> SentenceEncoder:
    """Returns the encoder of a base model.

    Prompt and tokenizer come first, so that their errors cost no loading of weights.

    Args:
        model: The backbone.
        prompt: The prompt; its evaluation side is used.
        cache_dir: Where converted models lie.
        device: Where the weights go.
        tokens_per_batch: Padded tokens per forward pass of `encode`.
        share_prefix: Compute what all prompts of a call begin with once.
        attachment: What is put onto the base model, for example an adapter; None to leave it as
            it is.
        spreading: How its weights are spread over ranks, who all load it then; None to keep it
            whole.

    Raises:
        ConfigError: The template is malformed or does not fit the model.
        ModelError: The model or tokenizer cannot be had.
    """
    built = build_prompt(prompt)
    more_prompts = build_more_prompts(prompt)
    _check_placeholder(model, (built, *more_prompts))
    config = load_model_config(model, cache_dir)
    tokenizer = load_tokenizer(model, cache_dir)
    layer = resolve_layer(model.layer, config.num_hidden_layers)
    build = partial(
        Embedder,
        pooling=model.pooling,
        layer=layer,
        normalize=model.normalize,
        token_prepending_layers=model.token_prepending_layers,
    )
    findings = None
    if spreading is not None:
        findings = build(sketch_trunk(model, cache_dir, device=device)).eval().findings
        # A module and its hooks hold each other, and with them the sketch's weights.
        gc.collect()
    trunk = load_trunk(
        model,
        cache_dir,
        device=device,
        num_tokens=len(tokenizer),
        attachment=attachment,
        shard=None if spreading is None else spreading.shard,
    )
    embedder = build(trunk).eval()
    if spreading is not None and findings is not None:
        if spreading.start is not None:
            spreading.start(trunk)
        embedder.go_in_step(
            findings,
            may_read_early=spreading.may_read_early,
            may_train_prefix=spreading.may_train_prefix,
        )
    return SentenceEncoder(
        embedder,
        tokenizer,
        built,
        max_length=max_positions(config),
        tokens_per_batch=tokens_per_batch,
        share_prefix=share_prefix,
        more_prompts=more_prompts,
    )


def _check_placeholder(model: ModelConfig, prompts: Sequence[Prompt]) -> None:
    has_slot = [prompt.before_prepended is not None for prompt in prompts]
    if model.token_prepending_layers and not all(has_slot):
        raise ConfigError(
            f"model.token_prepending_layers={model.token_prepending_layers} needs a "
            "{prepended} slot in every template; use prompt=token-prepending"
        )
    if any(has_slot) and not model.token_prepending_layers:
        raise ConfigError(
            "prompt.template has a {prepended} slot, which model.token_prepending_layers=0 leaves "
            "without use; use method=token-prepending"
        )


def load_adapted_encoder(
    folder: Path,
    cache_dir: Path,
    *,
    device: torch.device,
    model: ModelConfig | None = None,
    tokens_per_batch: int | None = None,
    share_prefix: bool = True,
    spreading: Spreading | None = None,
    trust_remote_code: bool = False,
) -> SentenceEncoder:
    """Returns the encoder that an adapter folder describes, verified by its probe.

    Args:
        folder: What training wrote.
        cache_dir: Where converted models lie.
        device: Where the weights go.
        model: Base model to use instead of the saved one, for example another copy of it, or the
            same in another type or quantisation. Pooling, layer and normalisation are always the
            saved ones.
        tokens_per_batch: Padded tokens per forward pass of `encode`.
        share_prefix: Compute what all prompts of a call begin with once.
        spreading: As for `load_encoder`.
        trust_remote_code: Run code that comes with the base model; what the folder says about it
            is not asked. No effect with `model`, which has its own word.

    Raises:
        AdapterError: Damaged folder, or the vectors are not those of training.
        ModelError: The base model cannot be had.
    """
    description = read_description(folder)
    saved = description.model
    base = model or replace(saved, trust_remote_code=trust_remote_code)
    base = replace(base, pooling=saved.pooling, layer=saved.layer, normalize=saved.normalize)
    if description.method == "full":
        base = full_model(base, folder)
    encoder = load_encoder(
        base,
        description.prompt,
        cache_dir,
        device=device,
        tokens_per_batch=tokens_per_batch,
        share_prefix=share_prefix,
        attachment=None if description.method == "full" else saved_adapter(folder),
        spreading=spreading,
    )
    distance = verify_probe(encoder, folder, saved_dtype=description.dtype)
    _log.info("adapter %s loaded; its probe differs by %.2g", folder, distance)
    return encoder


def full_model(model: ModelConfig, folder: Path) -> ModelConfig:
    """Returns the model in an adapter folder of full fine-tuning, tokenizer included.

    Args:
        model: The config of its base model.
        folder: The adapter folder.
    """
    return replace(
        model,
        name=str(folder.resolve()),
        init="pretrained",
        revision=None,
        gguf_package=None,
        tokenizer="bundled" if model.tokenizer == "bundled" else None,
    )
