"""Where a model comes from: its config and tokenizer, from a hub, a folder or a GGUF package.

Nothing here loads weights, and nothing looks at a model's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from embedllm.config import ModelConfig
from embedllm.errors import ModelError
from embedllm.hub import find_model
from embedllm.models.gguf import convert_gguf_package

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_SOURCE_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    ImportError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    UnpicklingError,
)
"""What transformers raises for a source that is missing, unreachable or no model."""


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the type of the weights; `auto` is bfloat16 where CUDA has it, else float32."""
    if name == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[name]


def resolve_device(accelerator: str = "auto") -> torch.device:
    """Returns the device of this process: cuda when there is one and it is not ruled out."""
    use_cuda = accelerator != "cpu" and torch.cuda.is_available()
    if accelerator == "gpu" and not use_cuda:
        raise ModelError("trainer.accelerator=gpu, but no CUDA device is visible; use cpu or auto")
    return torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")


def load_model_config(model: ModelConfig, cache_dir: Path) -> PreTrainedConfig:
    """Returns the transformers config, without weights. Fails fast on a wrong or closed source.

    Raises:
        ModelError: The model cannot be found or reached, or is no decoder-only language model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    if model.init == "random":
        config = _config_from_architecture(model.architecture)
        # The embedding of a padding token begins as zeros. The tokenizer may begin every text with
        # that id, and zeros on the way through tens of norms have gradients without end.
        config.pad_token_id = None
    else:
        with as_model_error(model, "model.name", model.name):
            config = AutoConfig.from_pretrained(source_of(model, cache_dir), **hub_options(model))
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"model.name={model.name!r} is a {config.model_type} model, not a decoder-only "
            "(causal) language model; an example of one is facebook/opt-125m"
        )
    if config.get_text_config() is not config:
        raise ModelError(
            f"model.name={model.name!r} is a {config.model_type} model of several parts (text and "
            "images, say); use a model of text alone"
        )
    return config


def _config_from_architecture(architecture: Mapping[str, Any]) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING

    values = dict(architecture)
    model_type = values.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"model.architecture.model_type={model_type!r} is not known to transformers; "
            "examples: opt, llama, mistral, qwen2, gemma3_text, gpt_neox, gpt2"
        )
    config_class = CONFIG_MAPPING[model_type]
    # transformers keeps unknown keys without a word, and the size would not be the one meant.
    known = config_class().to_dict().keys() | config_class.attribute_map.keys()
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ModelError(
            f"model.architecture has keys that a {model_type} model does not: "
            f"{', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    with as_architecture_error():
        return config_class(**values)


@contextmanager
def as_architecture_error() -> Iterator[None]:
    """Turns what transformers says about an impossible architecture into one message."""
    try:
        yield
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"model.architecture does not make a model: {reason}") from error


def load_tokenizer(model: ModelConfig, cache_dir: Path) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of the backbone, or the one that `model.tokenizer` names.

    Raises:
        ModelError: The tokenizer cannot be found or reached.
    """
    from transformers import AutoTokenizer

    if model.tokenizer == "bundled":
        from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer

        return build_bundled_tokenizer()
    source = model.tokenizer or model.name
    key = "model.tokenizer" if model.tokenizer else "model.name"
    with as_model_error(model, key, source):
        if model.tokenizer in (None, model.name):
            source = source_of(model, cache_dir)
        else:
            source = find_model(source, "main")
        # A revision, and trust, belong to the model's repository, not to another one.
        options = hub_options(model) if model.tokenizer in (None, model.name) else {}
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    # Without its files transformers makes a tokenizer that knows no token, without a word.
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"{key}: {source!r} has no vocabulary (tokenizer.json or the like is missing); set "
            "model.tokenizer to a folder or name that has one"
        )
    return tokenizer


def max_positions(config: PreTrainedConfig) -> int | None:
    """Returns how many positions the model was built for, None when it has no such limit."""
    value = getattr(config, "max_position_embeddings", None)
    return int(value) if value else None


def source_of(model: ModelConfig, cache_dir: Path) -> str:
    """Returns the hub name or folder of a model; a GGUF package is converted first.

    Raises:
        OSError: The hub does not answer, or not with that model.
    """
    if model.gguf_package:
        return str(convert_gguf_package(model.gguf_package, cache_dir))
    return find_model(model.name, model.revision or "main")


def hub_options(model: ModelConfig) -> dict[str, Any]:
    """Returns what the library's loaders are told beside the source."""
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if not model.gguf_package:
        options["revision"] = model.revision or "main"
    return options


@contextmanager
def as_model_error(model: ModelConfig, key: str, source: str) -> Iterator[None]:
    """Turns the many ways in which a source can fail into one message."""
    try:
        yield
    except _SOURCE_ERRORS as error:
        if isinstance(error, ModelError):
            raise
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if isinstance(error, UnpicklingError):
            raise ModelError(
                f"{key}: a weight file of {source!r} is damaged, or holds more than weights, which "
                "could run as code; use a copy in safetensors"
            ) from error
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{key}: {source!r} comes with code of its own, which is not run unless "
                "model.trust_remote_code=true says so; read it first"
            ) from error
        folder = Path(source)
        if folder.is_dir():
            found = f"the folder {folder} could not be read as a model or tokenizer"
        elif folder.is_absolute() or source.startswith("."):
            found = f"there is no folder {folder}"
        else:
            found = f"{source!r} is no local folder and could not be had from the hub"
        raise ModelError(
            f"{key}: {found}.\n{first_line}\n"
            f"Allowed: a Hugging Face name or a local folder in {key} (offline: download it "
            "where there is a network, then give the folder or set HF_HUB_OFFLINE=1), or "
            "model.init=random with model.tokenizer=bundled to try a size without weights."
        ) from error
