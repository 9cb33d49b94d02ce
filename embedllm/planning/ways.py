"""The ways to train: strategy, quantisation, checkpointing; which go together, and their order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from embedllm.config import StrategyConfig, TrainConfig
from embedllm.errors import ConfigError

_STRATEGIES: Final = (
    StrategyConfig("single"),
    StrategyConfig("ddp"),
    StrategyConfig("deepspeed", stage=1),
    StrategyConfig("deepspeed", stage=2),
    StrategyConfig("deepspeed", stage=3),
    StrategyConfig("fsdp2"),
    StrategyConfig("deepspeed", stage=2, offload="cpu"),
    StrategyConfig("deepspeed", stage=3, offload="cpu"),
)
_QUANTIZATIONS: Final = ("none", "nf4", "int8")
CHECKPOINTING: Final = ("none", "packs", "layers", "all")
CHOICES: Final = ("strategy", "quantization", "checkpointing")
"""What a way consists of."""


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        strategy: How the model is spread over processes.
        quantization: `model.quantization`.
        checkpointing: `trainer.activation_checkpointing`.
    """

    strategy: StrategyConfig
    quantization: str
    checkpointing: str

    def __str__(self) -> str:
        parts = [f"strategy={self.strategy.title}"]
        if self.quantization != "none":
            parts.append(f"model.quantization={self.quantization}")
        if self.checkpointing != "none":
            parts.append(f"trainer.activation_checkpointing={self.checkpointing}")
        return " ".join(parts)

    @property
    def preference(self) -> tuple[bool, int, int, int]:
        """Sorts ways from the fastest on.

        Host memory is far slower than anything else; quantised matrices are made anew in every
        pass; gathering weights costs more than computing states again.
        """
        titles = [strategy.title for strategy in _STRATEGIES]
        title = self.strategy.title
        return (
            self.strategy.offload != "none",
            _QUANTIZATIONS.index(self.quantization),
            titles.index(title) if title in titles else len(titles),
            CHECKPOINTING.index(self.checkpointing),
        )


def why_not(way: Way, config: TrainConfig, *, kind: str, world_size: int) -> str | None:
    """Returns why a training cannot go this way, None where it can.

    Args:
        way: The way.
        config: The training, whose own checks are asked too.
        kind: Kind of the devices.
        world_size: Processes.
    """
    strategy = way.strategy
    if strategy.name == "single" and world_size > 1:
        return f"strategy=single is one process, not {world_size}"
    if strategy.offload != "none" and kind == "cpu":
        return f"strategy={strategy.title} has nowhere to offload to on a CPU"
    if way.quantization != "none" and strategy.shards_weights:
        return (
            f"strategy={strategy.title} spreads weights over processes, which those of "
            f"model.quantization={way.quantization} do not take"
        )
    try:
        replace(
            config,
            strategy=strategy,
            model=replace(config.model, quantization=way.quantization),
            trainer=replace(config.trainer, activation_checkpointing=way.checkpointing),
        )
    except ConfigError as error:
        return str(error)
    return None


def list_ways(
    config: TrainConfig, *, kind: str, world_size: int, fixed: Collection[str] = ()
) -> list[Way]:
    """Returns the ways that are possible, the fastest first.

    Args:
        config: The training.
        kind: Kind of the devices.
        world_size: Processes.
        fixed: Which of `CHOICES` are as configured; a strategy other than `auto` always is.

    Raises:
        ConfigError: There is none.
    """
    ways, reasons = [], []
    for choice in product(*_choices(config, world_size, fixed)):
        way = Way(*choice)
        if reason := why_not(way, config, kind=kind, world_size=world_size):
            reasons.append(reason)
        else:
            ways.append(way)
    if not ways:
        raise ConfigError(f"there is no way to train: {'; '.join(dict.fromkeys(reasons))}")
    return sorted(ways, key=lambda way: way.preference)


def _choices(
    config: TrainConfig, world_size: int, fixed: Collection[str]
) -> tuple[Sequence[StrategyConfig], Sequence[str], Sequence[str]]:
    strategies: Sequence[StrategyConfig] = (config.strategy,)
    if config.strategy.name == "auto":
        # Spread over one process a model is where it was, but for what goes to host memory.
        alone = [s for s in _STRATEGIES if s.name == "single" or s.offload != "none"]
        strategies = alone if world_size == 1 else _STRATEGIES[1:]
    return (
        strategies,
        (config.model.quantization,) if "quantization" in fixed else _QUANTIZATIONS,
        (config.trainer.activation_checkpointing,) if "checkpointing" in fixed else CHECKPOINTING,
    )
