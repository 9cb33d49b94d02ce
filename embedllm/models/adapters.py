"""Adapters: what is trained on top of the frozen trunk. The only user of peft for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from embedllm.config import AdapterConfig
from embedllm.config.quantization import check_quantized_adapter
from embedllm.errors import AdapterError, ConfigError
from embedllm.models.dropout import use_few_bits_dropout
from embedllm.models.linear import use_onednn_linear
from embedllm.models.quantization import quantization_of
from embedllm.models.weight_stream import Attachment
from embedllm.random_state import kept_state, set_seed


def check_adapter_config(adapter: AdapterConfig) -> None:
    """Checks method and options without a model.

    Raises:
        ConfigError: Unknown method or option, or a value that peft refuses.
    """
    if adapter.method not in ("none", "full"):
        _peft_config(adapter)
    elif adapter.options:
        raise ConfigError(
            f"adapter.method={adapter.method} takes no adapter.options, got "
            f"{', '.join(adapter.options)}"
        )


def attach_adapter(trunk: nn.Module, adapter: AdapterConfig, *, seed: int) -> nn.Module:
    """Returns the trunk with what is to be trained, requiring gradients on exactly that.

    Args:
        trunk: The decoder trunk.
        adapter: Method and options.
        seed: Seed of the adapter's initial weights; the global random state is left alone.

    Raises:
        ConfigError: The options do not fit the trunk (no such module, say), or the method does not
            work over its quantised layers.
    """
    check_quantized_adapter(quantization_of(trunk), adapter.method)
    if adapter.method in ("none", "full"):
        return trunk.requires_grad_(adapter.method == "full")
    from peft import get_peft_model

    device = next(trunk.parameters()).device
    with kept_state(device):
        set_seed(seed, device)
        try:
            adapted = get_peft_model(trunk, _peft_config(adapter))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"adapter.options do not fit this model: {error}") from error
    use_onednn_linear(adapted)
    use_few_bits_dropout(adapted)
    return adapted  # type: ignore[no-any-return]


def new_adapter(adapter: AdapterConfig, *, seed: int) -> Attachment:
    """Returns what `attach_adapter` puts onto a trunk that is still to be loaded."""
    reads_weights = adapter.method not in ("none", "full") and _reads_weights(_peft_config(adapter))
    return Attachment(partial(attach_adapter, adapter=adapter, seed=seed), reads_weights)


def adapter_from_folder(folder: str) -> Attachment:
    """Returns a fresh adapter of the configuration saved in `folder`, for its weights to be set."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = False
    return Attachment(partial(_attach_fresh, config=config), _reads_weights(config))


def _attach_fresh(trunk: nn.Module, config: Any) -> nn.Module:
    from peft import get_peft_model

    # The random initial weights are replaced; the global random state is left alone.
    with kept_state(next(trunk.parameters()).device):
        adapted = get_peft_model(trunk, config)
    use_onednn_linear(adapted)
    use_few_bits_dropout(adapted)
    return adapted  # type: ignore[no-any-return]


def _reads_weights(config: Any) -> bool:
    """Whether an adapter's initial weights are made from the trunk's; if unknown, they are."""
    if config.peft_type == "LORA":
        return config.use_dora or config.init_lora_weights not in (True, False, "gaussian")
    return bool(config.peft_type != "IA3")


@contextmanager
def adapter_off(trunk: nn.Module) -> Iterator[None]:
    """In the block the trunk computes as if it had no adapter; without one nothing changes."""
    has_adapter = hasattr(trunk, "disable_adapter")
    with cast(Any, trunk).disable_adapter() if has_adapter else nullcontext():
        yield


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters that require gradients, by name, detached."""
    return {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}


def adapter_state(trunk: nn.Module) -> dict[str, Tensor]:
    """Returns the weights of the active peft adapter under peft's file names, on CPU."""
    from peft import get_peft_model_state_dict

    state: Mapping[str, Tensor] = get_peft_model_state_dict(trunk)
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def load_adapter_state(trunk: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Sets the weights of the active peft adapter.

    Raises:
        AdapterError: A weight is missing, superfluous or of another shape. peft only warns, and
            an adapter that is half loaded gives plausible wrong vectors.
    """
    from peft import set_peft_model_state_dict

    expected = {name: tuple(value.shape) for name, value in adapter_state(trunk).items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        first = wrong[0]
        raise AdapterError(
            f"{len(wrong)} adapter weights do not fit the model, for example {first}: the model "
            f"expects {expected.get(first, 'none')}, the file has {found.get(first, 'none')}; "
            "the adapter belongs to another base model"
        )
    set_peft_model_state_dict(trunk, dict(state))


def _peft_config(adapter: AdapterConfig) -> Any:
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    methods = sorted(str(t.value).lower() for t in PEFT_TYPE_TO_CONFIG_MAPPING)
    if adapter.method not in methods:
        raise ConfigError(
            f"adapter.method={adapter.method!r} is not known; allowed: none, full, "
            f"{', '.join(methods)}"
        )
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(adapter.method.upper())]
    allowed = {f.name for f in fields(config_class)}
    unknown = sorted(set(adapter.options) - allowed)
    if unknown:
        raise ConfigError(
            f"adapter.options has unknown keys {', '.join(unknown)}; allowed for "
            f"{adapter.method}: {', '.join(sorted(allowed))}"
        )
    try:
        config = config_class(task_type="FEATURE_EXTRACTION", **adapter.options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"adapter.options: {error}") from error
    if config.is_prompt_learning:
        raise ConfigError(
            f"adapter.method={adapter.method} adds virtual tokens to the prompt, which would "
            "change what the pooled position reads; use a method that changes weights (lora, ...)"
        )
    return config
