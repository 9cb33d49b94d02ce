"""What a training asks of a cluster: the fewest devices of one machine that hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from embedllm import program
from embedllm.config import HardwareConfig, TrainConfig
from embedllm.errors import ConfigError
from embedllm.planning.answers import choose_strategy, estimate_training
from embedllm.planning.hardware import GIB, Hardware, resolve_hardware
from embedllm.planning.planner import Candidate

_NUM_DEVICES: Final = (1, 2, 4, 8)
# Over the estimate of a machine's memory, for files that are read and what libraries keep.
_MEMORY_RESERVE_GIB: Final = 4


@dataclass(frozen=True)
class JobResources:
    """What a job needs of each of its machines.

    Attributes:
        processes: Processes, one for each device.
        gpus: GPUs; none where the devices are CPUs.
        memory_gib: Host memory.
    """

    processes: int
    gpus: int
    memory_gib: int


def job_resources(config: TrainConfig, hardware_config: HardwareConfig) -> JobResources:
    """Returns what a training needs, by the planner's estimate.

    Args:
        config: The training. `trainer.devices` and `trainer.num_nodes` are kept where they are
            set; one process is the default, and then as many are taken as are needed.
        hardware_config: The devices of the cluster.

    Raises:
        ConfigError: It does not fit.
    """
    is_free = config.strategy.name != "single" and config.trainer.devices == 1
    counts = _NUM_DEVICES if is_free else (config.trainer.devices,)
    offloaded: JobResources | None = None
    for devices in counts:
        hardware = resolve_hardware(hardware_config, devices=devices)
        try:
            candidate = _candidate(config, hardware, devices)
        except ConfigError:
            # No way at all, with that many.
            continue
        if not candidate.fits:
            continue
        memory = math.ceil(candidate.host_memory / GIB) + _MEMORY_RESERVE_GIB
        needs = JobResources(devices, devices if hardware.kind == "cuda" else 0, memory)
        if config.strategy.name != "auto" or candidate.way.strategy.offload == "none":
            return needs
        # It fits, slowly; more devices may do without.
        offloaded = offloaded or needs
    if offloaded is not None:
        return offloaded
    raise ConfigError(
        f"{config.model.name} with strategy={config.strategy.title} does not fit {counts[-1]} x "
        f"{hardware_config.name}; use another strategy or model.quantization, or a smaller model "
        f"({program.shown('plan')} shows what fits)"
    )


def _candidate(config: TrainConfig, hardware: Hardware, devices: int) -> Candidate:
    placed = replace(config, trainer=replace(config.trainer, devices=devices))
    if config.strategy.name == "auto":
        return choose_strategy(placed, hardware).candidate
    return estimate_training(placed, hardware)
