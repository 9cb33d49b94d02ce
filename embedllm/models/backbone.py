"""The decoder trunk and its tokenizer, from a hub, a folder, a GGUF package or random weights.

The trunk is the model without its language-model head: PromptEOL needs the state before the
head, and the logits over the whole vocabulary would be the largest tensor of the forward pass.
Nothing here looks at a model's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from embedllm.config import ModelConfig
from embedllm.errors import ModelError
from embedllm.log import get_logger
from embedllm.models.gguf import convert_gguf_package

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_log = get_logger(__name__)


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
        architecture = dict(model.architecture)
        try:
            config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        except (ValueError, TypeError) as error:
            raise ModelError(f"model.architecture: {error}") from error
    else:
        with _as_model_error(model, "model.name", model.name):
            config = AutoConfig.from_pretrained(_source(model, cache_dir), **_hub(model))
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"model.name={model.name!r} is a {config.model_type} model, not a decoder-only "
            "(causal) language model; an example of one is facebook/opt-125m"
        )
    return config


def load_tokenizer(model: ModelConfig, cache_dir: Path) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of the backbone, or the one that `model.tokenizer` names.

    Raises:
        ModelError: The tokenizer cannot be found or reached.
    """
    from transformers import AutoTokenizer

    if model.tokenizer == "bundled":
        from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer

        return build_bundled_tokenizer()
    source = model.tokenizer or _source(model, cache_dir)
    key = "model.tokenizer" if model.tokenizer else "model.name"
    with _as_model_error(model, key, source):
        return AutoTokenizer.from_pretrained(source, **_hub(model))


def load_trunk(
    model: ModelConfig,
    cache_dir: Path,
    *,
    device: torch.device,
    num_tokens: int | None = None,
) -> nn.Module:
    """Returns the decoder trunk in evaluation mode on `device`.

    With `model.layer` other than -1 the layers above it are removed, so they cost nothing.

    Args:
        model: The backbone's config.
        cache_dir: Where converted models lie.
        device: Where the weights go.
        num_tokens: Size of the tokenizer, checked against the embedding table.

    Raises:
        ModelError: The weights cannot be loaded, or the tokenizer has ids the model lacks.
    """
    from transformers import AutoModel

    config = load_model_config(model, cache_dir)
    if num_tokens is not None and num_tokens > config.vocab_size:
        raise ModelError(
            f"the tokenizer has {num_tokens} tokens but the model only {config.vocab_size}; "
            "set model.tokenizer to the model's own"
        )
    dtype = resolve_dtype(model.dtype, device)
    if model.init == "random":
        with torch.random.fork_rng():
            torch.manual_seed(model.init_seed)
            trunk = AutoModel.from_config(config, dtype=dtype)
    else:
        with _as_model_error(model, "model.name", model.name):
            trunk = AutoModel.from_pretrained(
                _source(model, cache_dir), config=config, dtype=dtype, **_hub(model)
            )
    _check_layer(model.layer, config.num_hidden_layers)
    if model.layer != -1:
        keep_layers(trunk, model.layer % (config.num_hidden_layers + 1))
    return trunk.to(device).eval()  # type: ignore[no-any-return]


def _check_layer(layer: int, num_layers: int) -> None:
    if not (1 <= layer <= num_layers or -num_layers <= layer <= -1):
        raise ModelError(
            f"model.layer={layer} does not exist; this model has layers 1 to {num_layers} "
            f"(or -1 to -{num_layers}, counted from the output)"
        )


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


def accepts_position_ids(trunk: nn.Module) -> bool:
    """Whether the trunk takes explicit positions; models with ALiBi compute their own."""
    return "position_ids" in inspect.signature(trunk.forward).parameters


def max_positions(config: PreTrainedConfig) -> int | None:
    """Returns how many positions the model was built for, None when it has no such limit."""
    value = getattr(config, "max_position_embeddings", None)
    return int(value) if value else None


def _source(model: ModelConfig, cache_dir: Path) -> str:
    if model.gguf_package:
        return str(convert_gguf_package(model.gguf_package, cache_dir))
    return model.name


def _hub(model: ModelConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if not model.gguf_package:
        options["revision"] = model.revision or "main"
    return options


@contextmanager
def _as_model_error(model: ModelConfig, key: str, source: str) -> Iterator[None]:
    """Turns the many ways in which a source can fail into one message."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
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
