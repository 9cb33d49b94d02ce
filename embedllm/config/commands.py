"""The root configuration of every command: which groups it has, and checks across them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from omegaconf import MISSING

from embedllm.config.checks import at_least, one_of, plain_name
from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import (
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    HalvingConfig,
    LoggerConfig,
    LossConfig,
    ModelConfig,
    PathsConfig,
    ProbeConfig,
    PromptConfig,
    StrategyConfig,
    TrainerConfig,
)
from embedllm.config.quantization import check_quantized_adapter, check_quantized_strategy
from embedllm.errors import ConfigError

MAX_SEED = 2**32 - 1  # numpy's
# What Hydra takes for the name of an option; no part begins with a dot, so none leads out.
_PROMPT_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*(?<!\.yaml)")


def check_processes(strategy: StrategyConfig, num_processes: int) -> None:
    """Refuses several processes that would each do the whole work alone.

    Args:
        strategy: How the work is spread.
        num_processes: Processes that the configuration asks for.

    Raises:
        ConfigError: `strategy=single` with more than one process.
    """
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if strategy.name == "single" and max(started, num_processes) > 1:
        cause = f"started with {started} processes (WORLD_SIZE)"
        if started == 1:
            cause = f"asked for {num_processes} processes (devices, num_nodes)"
        raise ConfigError(
            f"strategy=single was {cause}; every rank would do the whole work alone. Use one "
            "process, or strategy=ddp, fsdp2, deepspeed_zero1, deepspeed_zero2 or deepspeed_zero3"
        )


def check_precision(precision: str, strategy: StrategyConfig) -> None:
    """Raises ConfigError for a precision that a strategy does not have.

    Args:
        precision: `trainer.precision`.
        strategy: How the work is spread.
    """
    if precision == "bf16-true" and strategy.stage == 3:
        raise ConfigError(
            "trainer.precision=bf16-true rounds weights once they are loaded, and ZeRO 3 has cut "
            "them by then; use model.dtype=bfloat16 with trainer.precision=bf16-mixed or 32-true"
        )
    if precision == "16-mixed" and strategy.name == "fsdp2":
        raise ConfigError(
            "trainer.precision=16-mixed needs a scale for the loss, which strategy=fsdp2 has not; "
            "use trainer.precision=bf16-mixed, or strategy=deepspeed_zero3"
        )


@dataclass
class TrainConfig:
    """Everything `train.py` needs."""

    run_name: str = MISSING
    """Name of the run's folder. The same command with the same name resumes the run."""
    sweep_name: str | None = None
    """Name of the sweep that the run belongs to, and of the folder and the W&B group of its runs;
    default that of `sweep=`. The runs in it are named by their configurations."""
    swept_keys: list[str] = field(default_factory=list)
    """Keys whose values tell the runs of a sweep apart although they change no result (`strategy`,
    `trainer.devices`). `--multirun` fills it in."""
    num_trials: int = 20
    """Runs in all of a sweep that searches (`sweep=learning-rate`)."""
    seed: int = 42
    """Seed of data order, adapter initialisation and dropout."""
    resume: str = "auto"
    """`auto` continues a run folder that has checkpoints; `never` refuses to touch one; `adapt`
    continues one also with another strategy or another number of processes."""
    model: ModelConfig = MISSING
    adapter: AdapterConfig = MISSING
    prompt: PromptConfig = MISSING
    data: DataConfig = MISSING
    loss: LossConfig = MISSING
    trainer: TrainerConfig = MISSING
    strategy: StrategyConfig = MISSING
    logger: LoggerConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    probe: ProbeConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        one_of("resume", self.resume, ("auto", "never", "adapt"))
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed={self.seed} is out of range; it must be 0 to {MAX_SEED}")
        at_least("num_trials", self.num_trials, 1)
        check_processes(self.strategy, self.trainer.devices * self.trainer.num_nodes)
        checkpointing = self.trainer.activation_checkpointing
        if self.strategy.stage == 3 and checkpointing in ("layers", "all"):
            raise ConfigError(
                f"trainer.activation_checkpointing={checkpointing} does not work with ZeRO 3, "
                "which loses track of the weights of a layer that is computed again; use "
                "trainer.activation_checkpointing=packs, or strategy=fsdp2"
            )
        plain_name("run_name", self.run_name)
        if self.sweep_name is not None:
            plain_name("sweep_name", self.sweep_name)
        batch, parts = self.data.global_batch_size, self.trainer.accumulate_grad_batches
        if batch % parts or batch // parts < 2:
            raise ConfigError(
                f"data.global_batch_size={batch} must be a multiple of "
                f"trainer.accumulate_grad_batches={parts} and leave at least 2 examples each"
            )
        if self.adapter.method == "none":
            raise ConfigError(
                "adapter.method=none leaves nothing to train; use adapter=lora or adapter=full, "
                "or evaluate.py to score a model as it is"
            )
        check_quantized_adapter(self.model.quantization, self.adapter.method)
        check_quantized_strategy(self.model.quantization, self.strategy.name)
        check_precision(self.trainer.precision, self.strategy)
        if self.adapter.method == "full" and self.model.dtype == "float16":
            raise ConfigError(
                "adapter=full with model.dtype=float16 has no float32 copy of the weights; "
                "use model.dtype=float32 (or bfloat16) and trainer.precision=16-mixed"
            )
        if self.adapter.method == "full" and self.model.layer != -1:
            raise ConfigError(
                f"adapter=full with model.layer={self.model.layer} would save a model without "
                "its upper layers; use adapter=lora, or model.layer=-1"
            )
        untrained = {
            "prompt.more_templates": bool(self.prompt.more_templates),
            "prompt.pool_over=sentence": self.prompt.pool_over != "prompt",
            "model.token_prepending_layers": self.model.token_prepending_layers > 0,
        }
        for key in (key for key, is_set in untrained.items() if is_set):
            raise ConfigError(f"{key} works without training only, in evaluate.py")
        if self.trainer.precision == "bf16-true" and self.model.dtype == "float16":
            raise ConfigError(
                "trainer.precision=bf16-true contradicts model.dtype=float16; use bfloat16"
            )


@dataclass
class EvaluateConfig:
    """Everything `evaluate.py` needs."""

    run_name: str = MISSING
    """Name of the result's folder under paths.output_dir."""
    seed: int = 42
    """Seed of the transfer tasks' folds and classifiers; the STS tasks draw no random numbers."""
    devices: int = 1
    """Processes on this machine, one for each GPU, which share the sentences; torchrun and srun
    set it by themselves."""
    adapter_path: str | None = None
    """Adapter folder. It brings its own base model, prompt, clean-up, pooling and layer."""
    model: ModelConfig = MISSING
    prompt: PromptConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    probe: ProbeConfig = MISSING
    strategy: StrategyConfig = MISSING
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        plain_name("run_name", self.run_name)
        at_least("devices", self.devices, 1)
        check_processes(self.strategy, self.devices)
        if not self.evaluation.tasks:
            raise ConfigError(
                "evaluation.tasks is empty; use evaluation=sts, transfer, full, sts-dev or sample"
            )


@dataclass
class SearchConfig:
    """Everything `python -m embedllm search` needs."""

    run_name: str = MISSING
    """Name of the folder under paths.output_dir. The same command goes on where it was."""
    seed: int = 42
    """Decides which pairs come first, and the order among equal gold scores."""
    candidates: str = "paper"
    """`paper`: the 300 of the paper (evaluation.data_dir); or a CSV or JSONL file of
    demonstrations, as `python -m embedllm demonstrations` writes it."""
    save_as: str | None = None
    """Name under conf/prompt for the chosen prompt, for example searched/opt-2.7b; null to leave
    it in the run folder alone."""
    model: ModelConfig = MISSING
    prompt: PromptConfig = MISSING
    search: HalvingConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        plain_name("run_name", self.run_name)
        at_least("seed", self.seed, 0)
        if self.save_as is not None and not _PROMPT_NAME.fullmatch(self.save_as):
            raise ConfigError(
                f"save_as={self.save_as!r} must be a name under conf/prompt without .yaml: "
                "letters, digits, dots, dashes and underscores, with slashes for folders"
            )
        if len(self.evaluation.tasks) != 1:
            raise ConfigError(
                f"evaluation.tasks={self.evaluation.tasks} must be one task to choose by; "
                "use evaluation=sts-dev"
            )


@dataclass
class LayersConfig:
    """Everything `python -m embedllm layers` needs."""

    run_name: str = MISSING
    """Name of the folder under paths.output_dir."""
    model: ModelConfig = MISSING
    prompt: PromptConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        plain_name("run_name", self.run_name)
        if len(self.evaluation.tasks) != 1:
            raise ConfigError(
                f"evaluation.tasks={self.evaluation.tasks} must be one task to choose by; "
                "use evaluation=sts-dev"
            )
        if self.model.layer != -1:
            raise ConfigError("model.layer has no place here: every layer is scored")
        if (
            self.prompt.more_templates
            or self.prompt.pool_over != "prompt"
            or self.model.token_prepending_layers
        ):
            raise ConfigError(
                "layers scores one template pooled over the whole prompt; leave out "
                "prompt.more_templates, prompt.pool_over and model.token_prepending_layers"
            )
