"""Memory in use and its peak: a CUDA device's allocator, or this process's resident memory."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import torch

_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")
# Sets the peak of the resident memory to what is resident now (proc(5)).
_RESET_PEAK: Final = "5"


class MemoryGauge(Protocol):
    """Reads the peak since a moment, in bytes."""

    def release(self) -> None:
        """Gives memory back that is held but not in use, so that using it again shows."""
        ...

    def restart(self) -> None:
        """Sets the peak to what is in use now."""
        ...

    def peak(self) -> int:
        """Returns the most bytes in use at one moment since `restart`."""
        ...


def memory_gauge(device: torch.device) -> MemoryGauge | None:
    """Returns the gauge of a device; None for a CPU whose system cannot set the peak back."""
    if device.type == "cuda":
        return _CudaMemory(device)
    gauge = _ResidentMemory()
    try:
        gauge.restart()
        gauge.peak()
    except OSError:
        return None
    return gauge


class _CudaMemory:
    """Tensors on a device, without what the allocator holds in reserve."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def release(self) -> None:
        pass

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)


class _ResidentMemory:
    """All memory of this process that lies in RAM (Linux)."""

    def release(self) -> None:
        # Only glibc has it; elsewhere peaks that fit into what is held do not show.
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)

    def restart(self) -> None:
        _CLEAR_REFS.write_text(_RESET_PEAK)

    def peak(self) -> int:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if found is None:
            raise OSError(f"{_STATUS} has no VmHWM")
        return 1024 * int(found[1])
