"""What is measured of a step: one observer each for time, memory, operations and the trace.

Each step has one observer, so that none disturbs what another one measures.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from embedllm.files import write_atomically
from embedllm.profiling.memory import MemoryGauge


class Observer:
    """Sees a step go by and measures nothing."""

    def begin(self) -> None:
        """The step begins."""

    def switch(self, ended: str) -> None:
        """The part `ended` has run since the last call, and another one runs from here on."""

    def end(self) -> None:
        """The step has ended; its last `switch` came before."""


class Clock(Observer):
    """Seconds of each part, and the processor time of the step.

    A CUDA device is waited for at every border, so that a part has its own work alone; what the
    host would have prepared meanwhile costs a little on top.

    Args:
        device: Where the step runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.processor_seconds = 0.0

    def begin(self) -> None:
        """Starts the clock."""
        self.processor_seconds -= time.process_time()
        self._last = self._read()

    def switch(self, ended: str) -> None:
        """Charges the time since the last call."""
        now = self._read()
        self.seconds[ended] += now - self._last
        self._last = now

    def end(self) -> None:
        """Stops the clock."""
        self.processor_seconds += time.process_time()

    def _read(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class PeakMemory(Observer):
    """Most memory that was in use during each part, above what was in use before the step.

    Args:
        gauge: Reads the memory.
    """

    def __init__(self, gauge: MemoryGauge) -> None:
        self._gauge = gauge
        self.peak_bytes: defaultdict[str, int] = defaultdict(int)

    def begin(self) -> None:
        """Notes what is in use."""
        gc.collect()
        self._gauge.release()
        self._gauge.restart()
        self._before = self._gauge.peak()

    def switch(self, ended: str) -> None:
        """Charges the peak since the last call."""
        peak = self._gauge.peak() - self._before
        self.peak_bytes[ended] = max(self.peak_bytes[ended], peak)
        self._gauge.restart()


class Operations(Observer):
    """Floating-point operations of the matrix products of each part, by torch's own count."""

    def __init__(self) -> None:
        self._counter = FlopCounterMode(display=False, custom_mapping=_cpu_kernels())
        self._last = 0
        self.flops: defaultdict[str, int] = defaultdict(int)

    def begin(self) -> None:
        """Starts counting."""
        self._counter.__enter__()

    def switch(self, ended: str) -> None:
        """Charges what was counted since the last call."""
        total = self._counter.get_total_flops()
        self.flops[ended] += total - self._last
        self._last = total

    def end(self) -> None:
        """Stops counting."""
        self._counter.__exit__(None, None, None)


class Trace(Observer):
    """Writes a Chrome trace of the step.

    Args:
        path: The file, `.json` or `.json.gz`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profiler = torch.profiler.profile()

    def begin(self) -> None:
        """Starts the profiler."""
        self._profiler.__enter__()

    def end(self) -> None:
        """Stops it and writes the file."""
        self._profiler.__exit__(None, None, None)
        with tempfile.TemporaryDirectory() as scratch:
            # The profiler goes by the file's suffix.
            work = Path(scratch) / self._path.name
            self._profiler.export_chrome_trace(str(work))
            write_atomically(self._path, work.read_bytes())


def _cpu_kernels() -> dict[Any, Any]:
    """Returns the operations of CPU kernels that torch's counter does not know.

    Fused attention (pytorch/pytorch issue 195460), and oneDNN's product, which `models/linear.py`
    takes for float32.
    """
    aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
    kernels = {
        aten._scaled_dot_product_flash_attention_for_cpu: _count_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _count_attention_backward,
    }
    # Not in every build.
    product = getattr(mkldnn, "_linear_pointwise", None)
    return kernels if product is None else {**kernels, product: _count_product}


def _count_product(states: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * int(states[-1]) * int(math.prod(out_shape))


def _count_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _count_attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))
