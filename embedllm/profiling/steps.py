"""One step, run several times: to warm up, for the time, the memory, the operations, the trace."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from embedllm.profiling.memory import memory_gauge
from embedllm.profiling.observers import Clock, Observer, Operations, PeakMemory, Trace
from embedllm.profiling.sections import Part

RunSteps = Callable[[Sequence[Observer]], None]
"""Runs the same step once for each observer."""


@dataclass(frozen=True)
class PartCost:
    """What a part of a step costs.

    Attributes:
        part: Which one.
        seconds: Median over the timed steps.
        peak_bytes: Most memory in use during it above what was in use before the step; None where
            that cannot be measured.
        flops: Floating-point operations of its matrix products.
    """

    part: Part
    seconds: float
    peak_bytes: int | None
    flops: int


@dataclass(frozen=True)
class StepCost:
    """What a step costs.

    Attributes:
        parts: Every part of the step, in order.
        step_seconds: Each timed step.
        processor_seconds: Processor time of a step on all threads, the median. On a CPU, far less
            than the step's seconds on as many threads says that others used the machine too.
    """

    parts: tuple[PartCost, ...]
    step_seconds: tuple[float, ...]
    processor_seconds: float

    @property
    def seconds(self) -> float:
        """The sum of the parts' medians."""
        return sum(cost.seconds for cost in self.parts)

    @property
    def flops(self) -> int:
        """Operations of all parts."""
        return sum(cost.flops for cost in self.parts)

    @property
    def peak_bytes(self) -> int | None:
        """The largest peak of all parts."""
        peaks = [cost.peak_bytes for cost in self.parts if cost.peak_bytes is not None]
        return max(peaks, default=None)


def measure_steps(
    run_steps: RunSteps,
    parts: Sequence[Part],
    *,
    device: torch.device,
    num_steps: int,
    trace: Path | None,
) -> StepCost:
    """Returns what a step costs, part by part.

    Args:
        run_steps: Runs the step.
        parts: Those that the step can have.
        device: Where it runs.
        num_steps: Timed steps.
        trace: Where a Chrome trace of one more step goes, None for none.
    """
    clocks = [Clock(device) for _ in range(num_steps)]
    gauge = memory_gauge(device)
    memory = None if gauge is None else PeakMemory(gauge)
    operations = Operations()
    run_steps(
        [
            Observer(),
            *clocks,
            *([] if memory is None else [memory]),
            operations,
            *([] if trace is None else [Trace(trace)]),
        ]
    )
    costs = tuple(
        PartCost(
            part,
            statistics.median(clock.seconds[part] for clock in clocks),
            None if memory is None else memory.peak_bytes[part],
            operations.flops[part],
        )
        for part in parts
    )
    return StepCost(
        costs,
        tuple(sum(clock.seconds.values()) for clock in clocks),
        statistics.median(clock.processor_seconds for clock in clocks),
    )
