"""Clocks for benchmarks: contestants take turns in one process, and medians are compared.

Machines are shared and noisy, so a figure alone says little; a ratio between contestants that took
turns within seconds of each other does. Memory is not noisy, so one turn of each measures it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from embedllm.versions import git_revision, hardware, library_versions


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant, one entry for each turn.

    Attributes:
        seconds: Of every turn that counts.
        memory_bytes: By how much memory grew at most in the turn that does not; None without it.
    """

    seconds: tuple[float, ...]
    memory_bytes: int | None = None

    @property
    def median(self) -> float:
        """Median over the turns."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest over fastest turn."""
        return max(self.seconds) / min(self.seconds)


def take_turns(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    warm_up: bool = True,
    memory_of: torch.device | None = None,
) -> dict[str, Timing]:
    """Runs all contestants in turn, `repeats` times, and returns their timings.

    Args:
        contestants: What to run, by name.
        repeats: Turns of each that count.
        warm_up: One turn before that does not count.
        memory_of: Device whose memory is watched in the warm-up turn; None for none.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    memory: dict[str, int] = {}
    for turn in range(repeats + warm_up):
        for name, run in contestants.items():
            if memory_of is not None and turn < warm_up:
                memory[name], elapsed = measure_memory(run, memory_of)
            else:
                elapsed = measure_seconds(run)
            if turn >= warm_up:
                seconds[name].append(elapsed)
            label = f"turn {turn + 1 - warm_up} of {repeats}" if turn >= warm_up else "warm-up"
            sys.stderr.write(f"{label}: {name} {elapsed:.2f} s\n")
    return {name: Timing(tuple(values), memory.get(name)) for name, values in seconds.items()}


def fix_malloc() -> None:
    """Makes glibc hand large blocks back when they are freed, whatever ran before.

    It otherwise learns from the blocks that it sees, keeps ever larger ones, and reuses them badly:
    the same step grew by 1.5 GiB in a process of its own and by 5.3 GiB behind other contestants.
    """
    threshold_option, threshold_bytes = -3, 2**20  # M_MMAP_THRESHOLD (mallopt(3))
    ctypes.CDLL(None).mallopt(threshold_option, threshold_bytes)


def measure_seconds(run: Callable[[], Any]) -> float:
    """Returns the seconds of one call, garbage of earlier ones collected before."""
    gc.collect()
    return _clock(run)


def _clock(run: Callable[[], Any]) -> float:
    """Returns the seconds of one call, with all that it left for a GPU to do."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_memory(run: Callable[[], Any], device: torch.device) -> tuple[int, float]:
    """Returns by how many bytes memory grew at most during one call, and its seconds.

    On a GPU that is what tensors hold, on a CPU (Linux alone) the process's resident memory. What
    was freed before is given back to the system first, or it would be used again uncounted.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        seconds = _clock(run)
        return torch.cuda.max_memory_allocated(device) - before, seconds
    ctypes.CDLL(None).malloc_trim(0)
    # Makes the peak begin anew (proc(5)).
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident_bytes("VmRSS")
    seconds = _clock(run)
    return _resident_bytes("VmHWM") - before, seconds


def _resident_bytes(key: str) -> int:
    """Returns a figure of this process's memory: VmRSS for now, VmHWM for the peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition(f"{key}:")[2].split()[0])


def to_table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Writes a benchmark's result with what it ran on."""
    if path is None:
        return
    origin = {
        "versions": library_versions(),
        "hardware": hardware(),
        "git_revision": git_revision(),
        "command": ["python", *sys.argv],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**record, **origin}, indent=2) + "\n", encoding="utf-8")
