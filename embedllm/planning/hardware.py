"""The devices that a plan is for: as configured, or found on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from embedllm.config import HardwareConfig
from embedllm.errors import ConfigError
from embedllm.planning.ceiling import measure_ceiling
from embedllm.planning.host import host_memory

GIB: Final = 2**30
# Sizes of the product that a machine's rate is measured with; those of a small model's layer.
_PRODUCT: Final = (1024, 1024, 4096)


@dataclass(frozen=True)
class Hardware:
    """Devices of one kind, in bytes and seconds.

    Attributes:
        name: For people.
        kind: `cuda` or `cpu`.
        memory: Bytes of one device.
        usable_ratio: Part of them that may be filled.
        floor: Bytes that a process holds there before any tensor.
        flops_16: Matrix products in 16 bits, operations a second; None for unknown.
        flops_32: The same in float32.
        flops_ratio: Part of that which a step is assumed to reach.
        link: Bytes a second from a device to another one in the same machine.
        network: The same between machines.
        host_memory: Bytes of the machine around the devices; None for unknown.
    """

    name: str
    kind: str
    memory: int
    usable_ratio: float
    floor: int
    flops_16: float | None
    flops_32: float | None
    flops_ratio: float
    link: float
    network: float
    host_memory: int | None

    @property
    def usable(self) -> int:
        """Bytes of a device that a plan may fill."""
        return int(self.memory * self.usable_ratio)

    def flops(self, dtype: torch.dtype) -> float | None:
        """Returns the assumed rate of a step that multiplies in this type."""
        peak = self.flops_32 if dtype == torch.float32 else self.flops_16
        return None if peak is None else peak * self.flops_ratio


def resolve_hardware(config: HardwareConfig, *, devices: int, only_free: bool = False) -> Hardware:
    """Returns the hardware of a config; what is null there is found on this machine.

    Args:
        config: The group `hardware`.
        devices: Processes on a machine, which on a CPU share its memory.
        only_free: Of this machine take what is free now, for a run that starts; else all there is,
            so that a plan is the same tomorrow.

    Raises:
        ConfigError: It is to be found here, and is not here.
    """
    kind = config.kind
    if kind == "local":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    host = config.host_memory_gib
    of_host = host_memory(only_free=only_free) if host is None else int(host * GIB)
    memory = config.memory_gib
    if memory is None:
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                f"hardware={config.name} has no hardware.memory_gib, and no CUDA device is visible "
                "here to ask; set hardware.memory_gib or choose another hardware"
            )
        bytes_each = _gpu_memory(only_free=only_free) if kind == "cuda" else of_host // devices
    else:
        bytes_each = int(memory * GIB) if kind == "cuda" else int(memory * GIB) // devices
    return Hardware(
        name=config.name,
        kind=kind,
        memory=bytes_each,
        usable_ratio=config.usable_ratio,
        floor=int(config.floor_gib * GIB),
        flops_16=_rate(config.bf16_tflops, kind, torch.bfloat16, devices),
        flops_32=_rate(config.fp32_tflops, kind, torch.float32, devices),
        flops_ratio=config.flops_ratio,
        link=config.link_gb_per_second * 1e9,
        network=config.network_gb_per_second * 1e9,
        host_memory=of_host,
    )


def _gpu_memory(*, only_free: bool) -> int:
    """Returns the bytes of this process' GPU; free are also those that torch keeps for later."""
    if not only_free:
        return torch.cuda.get_device_properties(0).total_memory
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _rate(tflops: float | None, kind: str, dtype: torch.dtype, devices: int) -> float | None:
    """Returns the rate of one process, measured where none is given and the device is here."""
    if tflops is not None:
        return tflops * 1e12
    if kind == "cuda" and not torch.cuda.is_available():
        return None
    ceiling = measure_ceiling(torch.device(kind), dtype, model_shape=_PRODUCT)
    rate = ceiling.best.flops_per_second
    return rate if kind == "cuda" else rate / devices
