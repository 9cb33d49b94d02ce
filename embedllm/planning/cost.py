"""Operations, traffic and seconds of a step: rough, for telling ways to train apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from embedllm.planning.fake_model import Inventory
from embedllm.planning.hardware import Hardware
from embedllm.planning.sharding import Spread
from embedllm.planning.work import useful_factor
from embedllm.planning.workload import Workload

# Operations that take as long as restoring one quantised weight for one product: on a CPU, where a
# step on an NF4 base took 1.27 times as long as on a plain one, in packs of 512 tokens.
_RESTORING: Final = 280
# How often the forward pass is computed again: once per pack, once per layer, or both.
_RECOMPUTATIONS: Final = {"none": 0, "packs": 1, "layers": 1, "all": 2}


@dataclass(frozen=True)
class Flops:
    """Operations of an optimizer step, of all processes.

    Attributes:
        useful: What the plain model needs for every token of every prompt.
        executed: What is computed: without shared prefixes, with what is computed again; restored
            weights count as the operations that take as long.
    """

    useful: int
    executed: int


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step.

    Attributes:
        compute: Operations over the assumed rate.
        communication: Bytes over the bandwidth, as if nothing of it ran beside the computing.
    """

    compute: float
    communication: float

    @property
    def total(self) -> float:
        """Both, one after the other."""
        return self.compute + self.communication


def count_flops(
    inventory: Inventory,
    workload: Workload,
    *,
    world_size: int,
    checkpointing: str,
    quantization: str = "none",
) -> Flops:
    """Returns the operations of an optimizer step.

    Args:
        inventory: The model.
        workload: What one process computes.
        world_size: Processes.
        checkpointing: `trainer.activation_checkpointing`.
        quantization: `model.quantization`, which makes weights anew for every product.
    """
    trains_all = inventory.frozen.number == 0
    factor = useful_factor(is_training=True, trains_all=trains_all)
    again = useful_factor(is_training=False, trains_all=trains_all) * _RECOMPUTATIONS[checkpointing]
    times = world_size * workload.num_batches
    # The adapter's own matrices need all three products.
    adapter = 0 if trains_all else inventory.trainable.number
    of_adapter = useful_factor(is_training=True, trains_all=True) + again
    passes = len(workload.packs) + bool(workload.prefix_tokens)
    restored = 0
    if quantization != "none":
        # For the forward pass, the gradient and what is computed again.
        products = passes * (2 + _RECOMPUTATIONS[checkpointing])
        restored = products * _RESTORING * inventory.matrices.number
    per_token = (factor + again) * inventory.matmul_weights + of_adapter * adapter
    return Flops(
        useful=factor * inventory.matmul_weights * workload.text_tokens * times,
        executed=(per_token * workload.trunk_tokens + restored) * times,
    )


def count_traffic(spread: Spread, workload: Workload, *, checkpointing: str) -> int:
    """Returns the bytes that one device sends in an optimizer step.

    Args:
        spread: The model, spread over processes.
        workload: What one process computes.
        checkpointing: Decides how often weights are gathered.
    """
    strategy, world_size = spread.strategy, spread.world_size
    trained = spread.inventory.trainable.bytes
    to_host = trained if strategy.offload != "none" else 0
    if world_size == 1 and not strategy.shards_weights:
        return to_host
    # A sum over all processes, or a sum of shares and a collection of them, costs twice the bytes.
    sent = 2 * trained
    if strategy.shards_weights:
        passes = (len(workload.packs) + bool(workload.prefix_tokens)) * workload.num_batches
        gathers = passes * (2 + (checkpointing in ("packs", "all")))
        sent = trained + gathers * spread.whole_weights
        if strategy.offload != "none":
            to_host += gathers * spread.whole_weights // world_size
    return sent * (world_size - 1) // world_size + to_host


def estimate_time(
    flops: Flops,
    traffic: int,
    hardware: Hardware,
    *,
    dtype: torch.dtype,
    world_size: int,
    num_nodes: int,
) -> StepTime | None:
    """Returns the seconds of an optimizer step, None where the hardware's rate is unknown.

    Args:
        flops: Of all processes.
        traffic: Bytes that one device sends.
        hardware: The devices.
        dtype: Type of the matrix products.
        world_size: Processes.
        num_nodes: Machines.
    """
    rate = hardware.flops(dtype)
    if rate is None:
        return None
    bandwidth = hardware.link if num_nodes == 1 else min(hardware.link, hardware.network)
    return StepTime(flops.executed / world_size / rate, traffic / bandwidth)
