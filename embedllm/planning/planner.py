"""What every possible way to train takes on some hardware, and which is the fastest that fits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

import torch

from embedllm.config import TrainConfig
from embedllm.planning.cost import Flops, StepTime, count_flops, count_traffic, estimate_time
from embedllm.planning.hardware import GIB, Hardware
from embedllm.planning.sharding import Memory, Spread
from embedllm.planning.step_memory import StepEstimator
from embedllm.planning.ways import Way, list_ways
from embedllm.planning.workload import Workload

# A process on a GPU before it loads a model, in host memory; an assumption.
_HOST_FLOOR: Final = 3 * GIB
_MOST_EXAMPLES: Final = 2**16
# What is tried where packs of the usual size do not fit; smaller ones leave a GPU idle.
_SMALL_PACK: Final = 1024
_PACK_STEP: Final = 256
_NUM_CHORDS: Final = 2
_MOST_ESTIMATORS: Final = 16


@dataclass(frozen=True)
class Candidate:
    """A way to train, and what it takes.

    Attributes:
        way: Strategy, quantisation and checkpointing.
        memory: Of one device.
        host_memory: Bytes of a machine's host memory.
        checkpoint: Bytes of a checkpoint.
        flops: Operations of an optimizer step.
        traffic: Bytes that a device sends in a step.
        time: Seconds of a step, None where the hardware's rate is unknown.
        workload: What a process computes, in packs that may be smaller than usual.
        has_small_packs: Whether they are.
        problem: Why it does not fit; empty where it does.
    """

    way: Way
    memory: Memory
    host_memory: int
    checkpoint: int
    flops: Flops
    traffic: int
    time: StepTime | None
    workload: Workload
    has_small_packs: bool
    problem: str

    @property
    def fits(self) -> bool:
        """Whether devices and hosts have the memory."""
        return not self.problem


class Planner:
    """Estimates ways to train one model.

    Args:
        config: The training.
        hardware: The devices.
        workload: What a process computes.

    Raises:
        ModelError: The model has no architecture and cannot be had.
        ConfigError: The adapter does not fit it.
    """

    def __init__(self, config: TrainConfig, hardware: Hardware, workload: Workload) -> None:
        self.config = config
        self.hardware = hardware
        self.workload = workload
        self.world_size = config.trainer.devices * config.trainer.num_nodes
        self._steps = find_estimator(config, kind=hardware.kind)
        self.model = self._steps.model

    def ways(self, fixed: Collection[str] = ()) -> list[Way]:
        """Returns the possible ways, the simplest first (see `list_ways`).

        Raises:
            ConfigError: There is none.
        """
        return list_ways(
            self.config, kind=self.hardware.kind, world_size=self.world_size, fixed=fixed
        )

    def memory(self, way: Way, workload: Workload | None = None) -> Memory:
        """Returns what a device holds at the peak of a step, by part."""
        workload, checkpointing = workload or self.workload, way.checkpointing
        if way.strategy.name == "fsdp2":
            workload = workload.without_prefix()
            if checkpointing in ("packs", "all"):
                # Packs are trained one after the other (`training/module.py`).
                workload = workload.one_pack()
                checkpointing = "layers" if checkpointing == "all" else "none"
        step = self._steps.estimate(
            workload, quantization=way.quantization, checkpointing=checkpointing
        )
        return self._spread(way).memory(step, self.hardware)

    def candidate(self, way: Way) -> Candidate:
        """Returns everything that a way takes."""
        spread = self._spread(way)
        workload = self._workload_that_fits(way)
        memory = self.memory(way, workload)
        host_memory = self._host_memory(spread, memory)
        flops, traffic, time = self._cost(way, workload)
        return Candidate(
            way=way,
            memory=memory,
            host_memory=host_memory,
            checkpoint=spread.checkpoint,
            flops=flops,
            traffic=traffic,
            time=time,
            workload=workload,
            has_small_packs=workload is not self.workload,
            problem=self._problem(memory.total, host_memory),
        )

    def best_first(self, ways: Iterable[Way]) -> Iterator[Candidate]:
        """Yields what ways take, the fastest first, and of equally fast ones the simplest.

        Memory is estimated when it is asked for, since that takes long: packs of the usual size
        tell how fast a way is at best, and smaller ones only put it back in the queue.
        """
        queue: list[tuple[Any, int, Way, Candidate | None]] = []
        for number, way in enumerate(ways):
            heappush(queue, (self._rank(way, self._cost(way, self.workload)[2]), number, way, None))
        while queue:
            _, number, way, candidate = heappop(queue)
            if candidate is None:
                candidate = self.candidate(way)
                heappush(queue, (self._rank(way, candidate.time), number, way, candidate))
            else:
                yield candidate

    def _rank(self, way: Way, time: StepTime | None) -> Any:
        return way.rank(None if time is None else time.total)

    def _cost(self, way: Way, workload: Workload) -> tuple[Flops, int, StepTime | None]:
        """Returns operations, traffic and time of an optimizer step."""
        checkpointing = way.checkpointing
        flops = count_flops(
            self.model.inventory,
            workload,
            world_size=self.world_size,
            checkpointing=checkpointing,
            quantization=way.quantization,
        )
        traffic = count_traffic(self._spread(way), workload, checkpointing=checkpointing)
        time = estimate_time(
            flops,
            traffic,
            self.hardware,
            dtype=self.compute_dtype,
            world_size=self.world_size,
            num_nodes=self.config.trainer.num_nodes,
        )
        return flops, traffic, time

    def _workload_that_fits(self, way: Way) -> Workload:
        """Returns the work in usual packs, or in small ones where only these fit."""
        usual, usable = self.workload, self.hardware.usable
        memory = self.memory(way)
        is_hopeless = memory.total - memory.activations > usable
        if memory.total <= usable or is_hopeless or self.config.data.tokens_per_pack is not None:
            return usual
        small = usual.resized(pack_tokens=_SMALL_PACK)
        return small if self.memory(way, small).total <= usable else usual

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the matrix products."""
        precision = self.config.trainer.precision
        if precision == "32-true":
            return self.model.dtype
        return torch.float16 if precision == "16-mixed" else torch.bfloat16

    def largest_pack(self, candidate: Candidate) -> int:
        """Returns the most tokens of a pack that the devices have memory for.

        All texts in one pack are enough. Memory is a convex curve in the tokens of a pack, so what
        a chord says fits does fit, and a second chord from there comes close to the most.
        """
        way, work, usable = candidate.way, candidate.workload, self.hardware.usable
        low, at_low = work.pack_tokens, candidate.memory.total
        high = sum(pack.tokens for pack in work.packs)
        at_high = self.memory(way, work.resized(pack_tokens=high)).total
        if at_high <= usable:
            return high
        for _ in range(_NUM_CHORDS):
            between = low + int((usable - at_low) / (at_high - at_low) * (high - low))
            wider = work.resized(pack_tokens=max(low, between // _PACK_STEP * _PACK_STEP))
            low, at_low = wider.pack_tokens, self.memory(way, wider).total
        return low

    def largest_batch(self, candidate: Candidate) -> int:
        """Returns the most examples of a contrastive batch, of all processes, in these packs."""
        now = self.config.data.global_batch_size // self.workload.num_batches
        low, high = now, _MOST_EXAMPLES
        while high - low > max(1, low // 64):
            middle = (low + high) // 2
            workload = candidate.workload.resized(factor=middle / now)
            if self.memory(candidate.way, workload).total <= self.hardware.usable:
                low = middle
            else:
                high = middle
        return low

    def _spread(self, way: Way) -> Spread:
        return Spread(
            self.model.inventory,
            way.strategy,
            self.config.trainer,
            self.world_size,
            way.quantization,
        )

    def _host_memory(self, spread: Spread, memory: Memory) -> int:
        """Returns the bytes of a machine's memory, where all its processes are."""
        devices = self.config.trainer.devices
        if self.hardware.kind == "cpu":
            return devices * memory.total
        inventory = self.model.inventory
        # Weights come one layer at a time, after what is outside the layers.
        loading = inventory.outside.bytes + inventory.layer.bytes
        # Of a checkpoint the first process has all, whole, to write it.
        return devices * (_HOST_FLOOR + loading + spread.offloaded) + spread.checkpoint

    def _problem(self, device: int, host: int) -> str:
        usable, of_host = self.hardware.usable, self.hardware.host_memory
        if device > usable:
            return f"{(device - usable) / GIB:.1f} GiB too much for a device"
        if self.hardware.kind == "cuda" and of_host is not None and host > of_host:
            return f"{(host - of_host) / GIB:.1f} GiB too much for the host"
        return ""


_estimators: dict[str, StepEstimator] = {}


def find_estimator(config: TrainConfig, *, kind: str) -> StepEstimator:
    """Returns the estimator of a training, for all devices of a kind and all data the same one.

    Raises:
        ModelError: The model has no architecture and cannot be had.
        ConfigError: The adapter does not fit it.
    """
    trainer, paths = config.trainer, config.paths
    parts = config.model, config.adapter, trainer.precision, trainer.dropout_by, paths.cache_dir
    key = f"{kind} {parts}"
    if key not in _estimators:
        made = StepEstimator(config, kind=kind)
        while len(_estimators) >= _MOST_ESTIMATORS:
            # The oldest.
            del _estimators[next(iter(_estimators))]
        _estimators[key] = made
    return _estimators[key]
