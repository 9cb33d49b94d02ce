"""The root configuration of `python -m embedllm plan`, and the group `hardware`."""

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

HARDWARE_KINDS = ("cuda", "cpu", "local")
QUESTIONS = ("strategy", "models")


@dataclass
class HardwareConfig:
    """The devices that a plan is for. What is null is found on this machine."""

    name: str = MISSING
    """What tables call it."""
    kind: str = MISSING
    """`cuda`; `cpu`; or `local`, which is cuda where this machine has it and cpu elsewhere."""
    memory_gib: float | None = None
    """Memory of one device; on a CPU that of the machine, which its processes share."""
    usable_ratio: float = 0.92
    """Part of it that a plan may fill: the rest is for what the allocator cannot use."""
    floor_gib: float = 0.5
    """What a process holds there before any tensor: the CUDA context and its kernels; on a CPU
    the interpreter and the libraries."""
    bf16_tflops: float | None = None
    """Published rate of dense 16-bit matrix products, in 10^12 operations a second."""
    fp32_tflops: float | None = None
    """Published rate of float32, which torch computes without TF32."""
    flops_ratio: float = 0.45
    """Part of that rate that a step is assumed to reach."""
    link_gb_per_second: float = 25.0
    """What a device sends to another one in the same machine, in 10^9 bytes a second."""
    network_gb_per_second: float = 25.0
    """The same between machines."""
    host_memory_gib: float | None = None
    """Memory of the machine around the devices."""

    def __post_init__(self) -> None:
        one_of("hardware.kind", self.kind, HARDWARE_KINDS)
        at_least("hardware.memory_gib", self.memory_gib, 0, strictly=True)
        at_least("hardware.floor_gib", self.floor_gib, 0)
        at_least("hardware.bf16_tflops", self.bf16_tflops, 0, strictly=True)
        at_least("hardware.fp32_tflops", self.fp32_tflops, 0, strictly=True)
        at_least("hardware.link_gb_per_second", self.link_gb_per_second, 0, strictly=True)
        at_least("hardware.network_gb_per_second", self.network_gb_per_second, 0, strictly=True)
        at_least("hardware.host_memory_gib", self.host_memory_gib, 0, strictly=True)
        for key in ("usable_ratio", "flops_ratio"):
            at_least(f"hardware.{key}", getattr(self, key), 0, strictly=True)
            if getattr(self, key) > 1:
                raise ConfigError(f"hardware.{key}={getattr(self, key)} must not be above 1")


@dataclass
class PlanOptionsConfig:
    """What is asked, what is assumed about the texts, and where the answer is written."""

    question: str = "strategy"
    """`strategy`: how to train this model; `models`: which OPT sizes can be trained, and how."""
    read_data: bool = False
    """Plan for the texts of a real batch (the groups data and prompt, with the model's tokenizer)
    instead of the lengths assumed below."""
    sentence_tokens: int = 15
    """Assumed tokens of a sentence without its prompt; 15 is the mean over the NLI triplets."""
    texts_per_example: int = 3
    """Assumed texts of a training example: anchor, positive and hard negatives."""
    output: str | None = None
    """JSON file for the whole plan; null for the table alone."""

    def __post_init__(self) -> None:
        one_of("plan.question", self.question, QUESTIONS)
        at_least("plan.sentence_tokens", self.sentence_tokens, 1)
        at_least("plan.texts_per_example", self.texts_per_example, 2)
        if self.output is not None and not self.output.endswith(".json"):
            raise ConfigError(f"plan.output={self.output!r} must be a file that ends in .json")


@dataclass
class PlanConfig:
    """Everything `python -m embedllm plan` needs."""

    seed: int = 42
    """Decides which examples make the batch with plan.read_data."""
    plan: PlanOptionsConfig = field(default_factory=PlanOptionsConfig)
    hardware: HardwareConfig = MISSING
    model: ModelConfig = MISSING
    adapter: AdapterConfig = MISSING
    prompt: PromptConfig = MISSING
    data: DataConfig = MISSING
    loss: LossConfig = MISSING
    trainer: TrainerConfig = MISSING
    strategy: StrategyConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        # What training refuses needs no plan.
        self.to_train_config()

    def to_train_config(self) -> TrainConfig:
        """Returns the configuration of the training that is planned.

        Raises:
            ConfigError: Training refuses it.
        """
        return TrainConfig(
            run_name="plan",
            seed=self.seed,
            model=self.model,
            adapter=self.adapter,
            prompt=self.prompt,
            data=self.data,
            loss=self.loss,
            trainer=self.trainer,
            strategy=self.strategy,
            logger=LoggerConfig(),
            evaluation=EvaluationConfig(),
            probe=ProbeConfig(),
            paths=self.paths,
        )
