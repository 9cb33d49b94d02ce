"""What is found out before any weight is loaded: how the run is spread, and whether there is room.

It costs seconds, and spares what fails after the weights have loaded, or at the first checkpoint.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from embedllm import program
from embedllm.config import HardwareConfig, StrategyConfig, TrainConfig
from embedllm.errors import ConfigError, EmbedllmError
from embedllm.log import get_logger
from embedllm.models.backbone import resolve_device
from embedllm.planning.answers import choose_strategy, estimate_training
from embedllm.planning.hardware import GIB, Hardware, resolve_hardware
from embedllm.planning.planner import Candidate
from embedllm.planning.ways import CHECKPOINTING
from embedllm.ranks import current_rank
from embedllm.training.run_folder import RunFolder

_log = get_logger(__name__)

# Two checkpoints are kept while the next one is written.
_NUM_CHECKPOINTS = 3


def settle(config: TrainConfig, root: Path) -> TrainConfig:
    """Returns the configuration that will run; `strategy=auto` has become what the planner chose.

    It chooses once for each run: rates are measured, and of two ways that are almost equally fast
    another start may find the other one, with which the run could not go on.

    Args:
        config: The configuration; how many processes there are says the launcher.
        root: The run folder, which need not exist.

    Raises:
        ConfigError: There are fewer GPUs than processes, or no room in memory or on the disk.
    """
    rank = current_rank()
    per_node = rank.world_size // rank.num_nodes
    device = resolve_device(config.trainer.accelerator)
    if device.type == "cuda" and torch.cuda.device_count() < per_node:
        raise ConfigError(
            f"{per_node} processes on a machine with {torch.cuda.device_count()} GPU(s); lower "
            "trainer.devices, or set trainer.accelerator=cpu"
        )
    timeout = config.strategy.timeout_seconds
    if config.strategy.name == "auto":
        config = _as_begun(config, root, world_size=rank.world_size)
    trainer = replace(config.trainer, devices=per_node, num_nodes=rank.num_nodes)
    placed = replace(config, trainer=trainer)
    is_auto = config.strategy.name == "auto"
    hardware = _this_machine(device, per_node, is_measured=is_auto)
    if is_auto:
        choice = choose_strategy(placed, hardware)
        data = replace(config.data, tokens_per_pack=choice.tokens_per_pack)
        placed = replace(placed, strategy=choice.strategy, trainer=choice.trainer, data=data)
        _log.info(
            "strategy=auto is %s with trainer.activation_checkpointing=%s: %.1f GiB of a device "
            "by estimate",
            choice.strategy.title,
            choice.trainer.activation_checkpointing,
            choice.candidate.memory.total / GIB,
        )
        candidate: Candidate | None = choice.candidate
    else:
        candidate = _estimate(placed, hardware)
    if candidate is not None:
        _check_memory(config, candidate, hardware)
        _check_disk(candidate, root)
    # What was asked for stays in the record; only what the planner chose is new.
    trainer = replace(
        config.trainer, activation_checkpointing=placed.trainer.activation_checkpointing
    )
    strategy = replace(placed.strategy, timeout_seconds=timeout)
    return replace(config, strategy=strategy, trainer=trainer, data=placed.data)


def _estimate(config: TrainConfig, hardware: Hardware) -> Candidate | None:
    """Returns what the training takes; None, with a warning, where the planner has a bug.

    What was asked for can run all the same.
    """
    try:
        return estimate_training(config, hardware)
    except EmbedllmError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        _log.warning(
            "whether memory and disk have room for %s was not checked, for the estimate failed: "
            "%s: %s",
            config.model.name,
            type(error).__name__,
            reason,
        )
        _log.debug("the estimate failed", exc_info=True)
        return None


def _as_begun(config: TrainConfig, root: Path, *, world_size: int) -> TrainConfig:
    """Returns the configuration with what the planner chose when the run in the folder began.

    Packs stay as they were in any case; the rest is chosen anew for another number of processes
    and with `resume=adapt`.
    """
    manifest = RunFolder(root).read_manifest()
    if manifest is None:
        return config
    begun = manifest["config"]
    data = replace(config.data, tokens_per_pack=begun["data"]["tokens_per_pack"])
    config = replace(config, data=data)
    if config.resume == "adapt" or manifest.get("world_size") != world_size:
        return config
    # A run that has no memory left may go on with more to compute again.
    asked = (config.trainer.activation_checkpointing, begun["trainer"]["activation_checkpointing"])
    trainer = replace(config.trainer, activation_checkpointing=max(asked, key=CHECKPOINTING.index))
    strategy = StrategyConfig(**begun["strategy"])
    _log.info(
        "strategy=auto is %s with trainer.activation_checkpointing=%s and "
        "data.tokens_per_pack=%s, as this run began",
        strategy.title,
        trainer.activation_checkpointing,
        data.tokens_per_pack,
    )
    return replace(config, strategy=strategy, trainer=trainer)


def _this_machine(device: torch.device, per_node: int, *, is_measured: bool) -> Hardware:
    """Returns what is free of this machine's devices, and their rates where ways are compared.

    Measuring these takes a second.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    config = HardwareConfig(name="this machine", kind=kind)
    if not is_measured:
        config = replace(config, bf16_tflops=1.0, fp32_tflops=1.0)
    return resolve_hardware(config, devices=per_node, only_free=True)


def _check_memory(config: TrainConfig, candidate: Candidate, hardware: Hardware) -> None:
    if not candidate.problem:
        return
    message = (
        f"{config.model.name} with strategy={config.strategy.title} needs "
        f"{candidate.memory.total / GIB:.1f} GiB by estimate, and there are "
        f"{hardware.memory / GIB:.1f} free for each process ({candidate.problem}); use "
        "strategy=auto, more trainer.devices, model.quantization=nf4 or a smaller model "
        f"({program.shown('plan')} shows what fits)"
    )
    # States can be computed again, packs be smaller; weights have to be somewhere.
    if candidate.memory.weights > hardware.memory:
        raise ConfigError(message)
    _log.warning("%s; the run is tried all the same", message)


def _check_disk(candidate: Candidate, root: Path) -> None:
    folder = next(place for place in (root, *root.resolve().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    needed = _NUM_CHECKPOINTS * candidate.checkpoint
    if free < needed:
        raise ConfigError(
            f"{folder} has {free / GIB:.2f} GiB free, and checkpoints need "
            f"{needed / GIB:.2f} ({_NUM_CHECKPOINTS} of {candidate.checkpoint / GIB:.2f}); free "
            "some, or set paths.output_dir"
        )
