"""The ways to train: strategy, quantisation, checkpointing; which go together, and their order."""

from __future__ import annotations

import math
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
# Steps whose times differ by less are equally fast, as far as an estimate can tell.
_SAME_PACE: Final = 1.05
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
    def simplicity(self) -> tuple[bool, int, int, int]:
        """Sorts ways that are equally fast, the simplest first.

        Whole weights are simpler than pieces of them, and those of a type simpler than rounded
        ones; what is kept is simpler than what is computed again.
        """
        titles = [strategy.title for strategy in _STRATEGIES]
        title = self.strategy.title
        return (
            self.strategy.shards_weights,
            _QUANTIZATIONS.index(self.quantization),
            titles.index(title) if title in titles else len(titles),
            CHECKPOINTING.index(self.checkpointing),
        )

    def rank(self, seconds: float | None) -> tuple[bool, int, tuple[bool, int, int, int]]:
        """Sorts ways, the best first: the fastest, and of equally fast ones the simplest.

        Host memory comes last: what the host itself computes is not among the seconds.

        Args:
            seconds: Of an optimizer step; None for unknown.
        """
        pace = 0 if seconds is None else round(math.log(seconds) / math.log(_SAME_PACE))
        return self.strategy.offload != "none", pace, self.simplicity


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
    """Returns the ways that are possible, the simplest first.

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
    return sorted(ways, key=lambda way: way.rank(None))


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
