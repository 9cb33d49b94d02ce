"""The decoder trunk and its tokenizer, from a hub, a folder, a GGUF package or random weights.

The trunk is the model without its language-model head: PromptEOL needs the state before the
head, and the logits over the whole vocabulary would be the largest tensor of the forward pass.
Nothing here looks at a model's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from embedllm.config import ModelConfig
from embedllm.errors import ModelError
from embedllm.log import get_logger
from embedllm.models.attention import use_short_row_attention
from embedllm.models.gguf import convert_gguf_package
from embedllm.models.linear import use_onednn_linear

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_log = get_logger(__name__)

_SOURCE_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    ImportError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
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
    else:
        with _as_model_error(model, "model.name", model.name):
            config = AutoConfig.from_pretrained(_source(model, cache_dir), **_hub(model))
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
    with _as_architecture_error():
        return config_class(**values)


@contextmanager
def _as_architecture_error() -> Iterator[None]:
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
    source = model.tokenizer or _source(model, cache_dir)
    key = "model.tokenizer" if model.tokenizer else "model.name"
    with _as_model_error(model, key, source):
        # A revision, and trust, belong to the model's repository, not to another one.
        options = _hub(model) if model.tokenizer in (None, model.name) else {}
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    # Without its files transformers makes a tokenizer that knows no token, without a word.
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"{key}: {source!r} has no vocabulary (tokenizer.json or the like is missing); set "
            "model.tokenizer to a folder or name that has one"
        )
    return tokenizer


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
    _check_num_tokens(num_tokens, config)
    trunk = _load(AutoModel, model, config, cache_dir, device=device)
    check_is_causal(trunk, model.name)
    layer = resolve_layer(model.layer, config.num_hidden_layers)
    if layer != -1:
        keep_layers(trunk, layer)
    use_short_row_attention(trunk)
    use_onednn_linear(trunk)
    return trunk


def load_language_model(
    model: ModelConfig,
    cache_dir: Path,
    *,
    device: torch.device,
    num_tokens: int | None = None,
) -> PreTrainedModel:
    """Returns the whole model in evaluation mode, with the head that predicts the next token.

    It has all its layers, whatever `model.layer` says.

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
    language_model = _load(AutoModelForCausalLM, model, config, cache_dir, device=device)
    check_is_causal(cast(nn.Module, language_model.base_model), model.name)
    return cast("PreTrainedModel", language_model)


def _load(
    auto_class: Any,
    model: ModelConfig,
    config: PreTrainedConfig,
    cache_dir: Path,
    *,
    device: torch.device,
) -> nn.Module:
    """Returns a complete model of one of transformers' auto classes, in evaluation mode."""
    dtype = resolve_dtype(model.dtype, device)
    loaded: nn.Module
    if model.init == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(model.init_seed)
            with _as_architecture_error():
                loaded = auto_class.from_config(config, dtype=dtype)
    else:
        with _as_model_error(model, "model.name", model.name):
            loaded, report = auto_class.from_pretrained(
                _source(model, cache_dir),
                config=config,
                dtype=dtype,
                output_loading_info=True,
                **_hub(model),
            )
        _check_complete(model, report["missing_keys"])
    return loaded.to(device).eval()


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
    model: Any = cast(Any, trunk).get_base_model() if hasattr(trunk, "get_base_model") else trunk
    return inspect.signature(model.forward).parameters.keys()


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
    except _SOURCE_ERRORS as error:
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
