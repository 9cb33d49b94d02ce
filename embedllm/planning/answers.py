"""The planner's answers: a plan, what `strategy=auto` becomes, what a training takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from embedllm import program
from embedllm.config import (
    PlanConfig,
    PlanOptionsConfig,
    StrategyConfig,
    TrainConfig,
    TrainerConfig,
)
from embedllm.errors import ConfigError
from embedllm.planning.fake_model import Inventory
from embedllm.planning.hardware import Hardware, resolve_hardware
from embedllm.planning.planner import Candidate, Planner
from embedllm.planning.train_command import train_command
from embedllm.planning.ways import CHECKPOINTING, CHOICES
from embedllm.planning.workload import Workload, assume_lengths, assume_workload, find_workload


@dataclass(frozen=True)
class Plan:
    """How a model can be trained on some hardware.

    Attributes:
        model: Its name.
        inventory: What it consists of.
        dtype: Type of its weights.
        hardware: The devices.
        workload: What a process computes in a step.
        world_size: Processes.
        candidates: All possible ways, the fastest first.
        largest_pack: Tokens of the largest pack that the recommended way has memory for; they are
            in the command where usual packs do not fit.
        largest_batch: Examples of its largest contrastive batch; 65,536 for that and more.
        command: The command that trains in the recommended way; empty without one.
    """

    model: str
    inventory: Inventory
    dtype: str
    hardware: Hardware
    workload: Workload
    world_size: int
    candidates: tuple[Candidate, ...]
    largest_pack: int | None = None
    largest_batch: int | None = None
    command: str = ""

    @property
    def recommended(self) -> Candidate | None:
        """The fastest way that fits."""
        return next((c for c in self.candidates if c.fits), None)

    @property
    def nearest(self) -> Candidate:
        """The way that takes the least memory of a device."""
        return min(self.candidates, key=lambda candidate: candidate.memory.total)


@dataclass(frozen=True)
class Choice:
    """What `strategy=auto` becomes.

    Attributes:
        strategy: The strategy.
        trainer: The trainer's settings with the checkpointing that it needs.
        tokens_per_pack: `data.tokens_per_pack`, smaller than usual where only that fits.
        candidate: What that takes.
    """

    strategy: StrategyConfig
    trainer: TrainerConfig
    tokens_per_pack: int | None
    candidate: Candidate


def plan(config: PlanConfig, *, fixed: Collection[str] = (), arguments: Sequence[str] = ()) -> Plan:
    """Returns how the configured model can be trained on the configured hardware.

    Args:
        config: The checked configuration.
        fixed: Which of `ways.CHOICES` stay as configured; a strategy other than `auto` always does.
        arguments: What the train command needs beside the way (`train_command.py`).

    Raises:
        EmbedllmError: Model, data or hardware cannot be had, or no way is possible.
    """
    planner = build_planner(config)
    ways = planner.ways(fixed)
    trainer = planner.config.trainer
    made = Plan(
        model=planner.config.model.name,
        inventory=planner.model.inventory,
        dtype=str(planner.model.dtype).removeprefix("torch."),
        hardware=planner.hardware,
        workload=planner.workload,
        world_size=planner.world_size,
        candidates=tuple(planner.best_first(ways)),
    )
    best = made.recommended
    if best is None:
        return made
    largest_pack = planner.largest_pack(best)
    return replace(
        made,
        largest_pack=largest_pack,
        largest_batch=planner.largest_batch(best),
        command=train_command(
            best.way,
            arguments,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            tokens_per_pack=largest_pack if best.has_small_packs else None,
        ),
    )


def build_planner(config: PlanConfig) -> Planner:
    """Returns the planner of a plan's configuration.

    Raises:
        EmbedllmError: Model, data or hardware cannot be had.
    """
    trainer = config.trainer
    hardware = resolve_hardware(config.hardware, devices=trainer.devices)
    world_size = trainer.devices * trainer.num_nodes
    workload = find_workload(config, kind=hardware.kind, world_size=world_size)
    return Planner(config.to_train_config(), hardware, workload)


def choose_strategy(
    config: TrainConfig, hardware: Hardware, *, workload: Workload | None = None
) -> Choice:
    """Returns what `strategy=auto` becomes: the fastest way that fits.

    Quantisation stays as configured, and states are computed again at least as configured.

    Args:
        config: The training; with another strategy than `auto` only its checkpointing is chosen.
        hardware: The devices.
        workload: What a process computes; None for sentences of the usual length.

    Raises:
        ConfigError: No way fits; the message says by how much, and what would help.
    """
    planner = _planner_of(config, hardware, workload)
    least = config.trainer.activation_checkpointing
    ways = [
        way
        for way in planner.ways({"quantization"})
        if CHECKPOINTING.index(way.checkpointing) >= CHECKPOINTING.index(least)
    ]
    candidates = []
    for candidate in planner.best_first(ways):
        way = candidate.way
        if candidate.fits:
            trainer = replace(config.trainer, activation_checkpointing=way.checkpointing)
            tokens = planner.largest_pack(candidate) if candidate.has_small_packs else None
            tokens = tokens or config.data.tokens_per_pack
            return Choice(way.strategy, trainer, tokens, candidate)
        candidates.append(candidate)
    nearest = min(candidates, key=lambda candidate: candidate.memory.total)
    raise ConfigError(
        f"{config.model.name} does not fit {planner.world_size} x {hardware.name} in any way; the "
        f"nearest, {nearest.way}, is {nearest.problem}. Use more devices, another "
        "model.quantization, a smaller data.tokens_per_pack or a smaller model "
        f"({program.shown('plan')} shows what fits)"
    )


def estimate_training(
    config: TrainConfig, hardware: Hardware, *, workload: Workload | None = None
) -> Candidate:
    """Returns what a training takes exactly as it is configured, for a check before it starts.

    Args:
        config: The training; its strategy is not `auto`.
        hardware: The devices.
        workload: What a process computes; None for sentences of the usual length.

    Raises:
        ConfigError: Strategy, quantisation and adapter do not go together.
    """
    planner = _planner_of(config, hardware, workload)
    [way] = planner.ways(CHOICES)
    return planner.candidate(way)


def _planner_of(config: TrainConfig, hardware: Hardware, workload: Workload | None) -> Planner:
    world_size = config.trainer.devices * config.trainer.num_nodes
    if workload is None:
        lengths = assume_lengths(config.prompt, PlanOptionsConfig())
        workload = assume_workload(config, lengths, kind=hardware.kind, world_size=world_size)
    return Planner(config, hardware, workload)
