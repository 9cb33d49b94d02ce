"""The root configuration of `python -m embedllm profile`."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from embedllm.config.checks import at_least, one_of
from embedllm.config.commands import TrainConfig
from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import (
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    LoggerConfig,
    LossConfig,
    ModelConfig,
    PathsConfig,
    ProbeConfig,
    PromptConfig,
    StrategyConfig,
    TrainerConfig,
)
from embedllm.errors import ConfigError

PROFILED = ("train", "encode")
TRACE_SUFFIXES = (".json", ".json.gz")


@dataclass
class ProfileOptionsConfig:
    """What is measured, and where it is written."""

    what: str = "train"
    """`train`: an optimizer step; `encode`: one call with the sentences of such a step."""
    num_steps: int = 5
    """Timed steps, after one that warms up; all read the same batch."""
    trace: str | None = None
    """File (.json or .json.gz) for a Chrome trace of one more step; null for none."""
    output: str | None = None
    """JSON file for everything that was measured; null for the table alone."""

    def __post_init__(self) -> None:
        one_of("profile.what", self.what, PROFILED)
        at_least("profile.num_steps", self.num_steps, 1)
        if self.trace is not None and not self.trace.endswith(TRACE_SUFFIXES):
            raise ConfigError(
                f"profile.trace={self.trace!r} must be a file that ends in "
                f"{' or '.join(TRACE_SUFFIXES)}"
            )
        if self.output is not None and not self.output.endswith(".json"):
            raise ConfigError(f"profile.output={self.output!r} must be a file that ends in .json")


@dataclass
class ProfileConfig:
    """Everything `python -m embedllm profile` needs."""

    seed: int = 42
    """Decides which examples make the batch, adapter initialisation and dropout."""
    profile: ProfileOptionsConfig = field(default_factory=ProfileOptionsConfig)
    model: ModelConfig = MISSING
    adapter: AdapterConfig = MISSING
    prompt: PromptConfig = MISSING
    data: DataConfig = MISSING
    loss: LossConfig = MISSING
    trainer: TrainerConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        if self.profile.what == "train":
            # What training refuses has no step to profile.
            self.to_train_config()

    def to_train_config(self) -> TrainConfig:
        """Returns the configuration of the training whose step is profiled.

        Raises:
            ConfigError: Training refuses it.
        """
        return TrainConfig(
            run_name="profile",
            seed=self.seed,
            model=self.model,
            adapter=self.adapter,
            prompt=self.prompt,
            data=self.data,
            loss=self.loss,
            trainer=self.trainer,
            strategy=StrategyConfig(),
            logger=LoggerConfig(),
            evaluation=EvaluationConfig(),
            probe=ProbeConfig(),
            paths=self.paths,
        )
