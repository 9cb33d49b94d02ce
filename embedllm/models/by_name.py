"""A path or a name to an encoder: what `SentenceEncoder.load` does."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from embedllm import program
from embedllm.config import ModelConfig, PromptConfig
from embedllm.config.options import default_cache_dir, option_names, read_option
from embedllm.errors import AdapterError, ConfigError
from embedllm.hub import download_with
from embedllm.log import get_logger
from embedllm.models.adapter_folder import DESCRIPTION_FILE, read_description
from embedllm.models.backbone import resolve_device
from embedllm.models.loading import load_adapted_encoder, load_encoder

if TYPE_CHECKING:
    from embedllm.models.encoder import SentenceEncoder

_log = get_logger(__name__)

_DEFAULT_PROMPT: Final = "prompteol"
_HUB_NAME: Final = re.compile(r"\w[\w.-]*/[\w.-]+")


def load_by_name(
    path_or_name: str | Path,
    *,
    device: str | torch.device | None = None,
    prompt: str | PromptConfig | None = None,
    tokens_per_batch: int | None = None,
    cache_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    **model_options: Any,
) -> SentenceEncoder:
    """Returns the encoder; the arguments are those of `SentenceEncoder.load`.

    Args:
        path_or_name: Adapter folder or run folder, model folder, name of `conf/model`, or hub
            name; the first of these that fits.
        device: `cpu`, `cuda`, ...; None for the GPU when there is one.
        prompt: Template, name of `conf/prompt` or a config; for a model without a prompt of its
            own.
        tokens_per_batch: Padded tokens per forward pass; None for the device's default.
        cache_dir: Where converted models lie; None for the usual place.
        trust_remote_code: Run code that comes with the model.
        model_options: Keys of `ModelConfig` that differ from what is saved or usual; None leaves
            one out.

    Raises:
        EmbedllmError: Anything that the caller can mend.
    """
    where = _resolve_device(device)
    cache = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    options = {key: value for key, value in model_options.items() if value is not None}
    folder = _find_described(path_or_name, options.get("revision"))
    if folder is None:
        model = replace(_named_model(str(path_or_name)), **options)
        if trust_remote_code:
            model = replace(model, trust_remote_code=True)
        encoder = load_encoder(
            model, _to_prompt(prompt), cache, device=where, tokens_per_batch=tokens_per_batch
        )
        _log.info("prompt in use: %s", encoder.describe())
        return encoder
    if prompt is not None:
        raise ConfigError(
            f"prompt={prompt!r} has no place: {folder} brings the prompt it was trained with; "
            "leave it out, or load the base model with that prompt"
        )
    saved = read_description(folder).model
    return load_adapted_encoder(
        folder,
        cache,
        device=where,
        model=replace(saved, trust_remote_code=trust_remote_code, **options),
        tokens_per_batch=tokens_per_batch,
    )


def _find_described(path_or_name: str | Path, revision: str | None) -> Path | None:
    """Returns the folder with our description that is meant, None for a plain model.

    One that was pushed to the hub is downloaded.

    Raises:
        AdapterError: It is an adapter, but none of ours.
    """
    folder = Path(path_or_name).expanduser()
    if not folder.is_dir():
        is_hub_name = _HUB_NAME.fullmatch(str(path_or_name)) is not None
        return download_with(str(path_or_name), DESCRIPTION_FILE, revision) if is_hub_name else None
    for place in (folder, folder / "adapter"):
        if (place / DESCRIPTION_FILE).is_file():
            return place
    if (folder / "adapter_config.json").is_file():
        raise AdapterError(
            f"{folder} holds a peft adapter without {DESCRIPTION_FILE}, so its prompt and pooling "
            f"are not known; allowed: a folder that `{program.shown('train')}` or "
            f"`{program.shown('export')}` wrote"
        )
    return None


def _named_model(name: str) -> ModelConfig:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelConfig(name=str(folder))
    if name in option_names("model"):
        return read_option("model", name, ModelConfig)
    near = difflib.get_close_matches(name, option_names("model"), n=1, cutoff=0.8)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or near:
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(
            f"{name!r} is no folder and no hub name{hint}. Allowed: a folder with an adapter or a "
            f"model, a hub name, or one of {', '.join(option_names('model'))}"
        )
    return ModelConfig(name=name)


def _to_prompt(prompt: str | PromptConfig | None) -> PromptConfig:
    if isinstance(prompt, PromptConfig):
        return prompt
    if prompt is not None and "{" in prompt:
        return PromptConfig(template=prompt)
    return read_option("prompt", prompt or _DEFAULT_PROMPT, PromptConfig)


def _resolve_device(device: str | torch.device | None) -> torch.device:
    if device is None or device == "auto":
        return resolve_device()
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device={device!r} is not known; allowed: cpu, cuda, cuda:1") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device={device}, but no CUDA device is visible; use cpu, or leave it out"
        )
    return chosen
