"""What works with a base in 4 or 8 bits."""

from __future__ import annotations

from typing import Final

from embedllm.errors import ConfigError

ADAPTER_METHODS: Final = ("lora", "adalora", "hira", "ia3", "pvera", "randlora", "road", "vera")
"""Methods that never read the base weight, or for which peft has layers that restore it."""


def check_quantized_adapter(quantization: str, method: str) -> None:
    """Raises ConfigError for an adapter method that a quantised base cannot carry.

    Args:
        quantization: `model.quantization`; `none` carries all.
        method: `adapter.method`.
    """
    if quantization == "none" or method in ("none", *ADAPTER_METHODS):
        return
    if method == "full":
        raise ConfigError(
            f"adapter=full cannot train the weights of model.quantization={quantization}; use "
            "adapter=lora, or model.quantization=none"
        )
    raise ConfigError(
        f"adapter.method={method} does not work over model.quantization={quantization}; allowed: "
        f"{', '.join(ADAPTER_METHODS)}. Or use model.quantization=none"
    )


def check_quantized_strategy(quantization: str, strategy: str) -> None:
    """Raises ConfigError for a strategy that cannot spread a quantised base.

    Args:
        quantization: `model.quantization`; `none` works with all.
        strategy: `strategy.name`.
    """
    if quantization != "none" and strategy == "fsdp2":
        raise ConfigError(
            f"strategy=fsdp2 cuts weights apart, and those of model.quantization={quantization} "
            "cannot be; use strategy=ddp or deepspeed_zero2, whose processes hold the small base "
            "each, or strategy=deepspeed_zero3, or model.quantization=none"
        )
