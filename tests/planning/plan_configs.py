"""Configurations and estimates that the tests of the planner share."""

from __future__ import annotations

from typing import Any

from tiny_runs import compose_typed

from embedllm.config import PlanConfig, StrategyConfig
from embedllm.planning.fake_model import Inventory, Weights
from embedllm.planning.hardware import Hardware
from embedllm.planning.step_memory import StepMemory

MIB = 2**20
GIB = 2**30

ZERO = {stage: StrategyConfig("deepspeed", stage=stage) for stage in (1, 2, 3)}
OFFLOADED = {stage: StrategyConfig("deepspeed", stage=stage, offload="cpu") for stage in (2, 3)}
STEP = StepMemory(peak=3 * GIB, peak_without_gradients=2 * GIB, kept=GIB)


def compose_plan(*overrides: str) -> PlanConfig:
    """Returns the config that `python -m embedllm plan` would get with these overrides."""
    config = compose_typed("plan", *overrides)
    assert isinstance(config, PlanConfig)
    return config


def gpu(memory_gib: float = 80, **changes: Any) -> Hardware:
    """Returns a GPU of round figures."""
    values: dict[str, Any] = {
        "name": "round-gpu",
        "kind": "cuda",
        "memory": int(memory_gib * GIB),
        "usable_ratio": 1.0,
        "floor": 0,
        "flops_16": 100e12,
        "flops_32": 10e12,
        "flops_ratio": 0.5,
        "link": 100e9,
        "network": 10e9,
        "host_memory": 1024 * GIB,
    }
    return Hardware(**{**values, **changes})


def inventory(frozen: int = 1_000_000, trained: int = 10_000, *, itemsize: int = 2) -> Inventory:
    """Returns a model of so many weights: frozen ones of a type, trained ones in float32."""
    return Inventory(
        frozen=Weights(frozen, itemsize * frozen),
        trainable=Weights(trained, 4 * trained),
        embeddings=Weights(frozen // 10, itemsize * (frozen // 10)),
        matrices=Weights(frozen // 2, itemsize * (frozen // 2)),
        nf4_bytes=frozen // 4,
        int8_bytes=frozen // 2,
        largest_matrix=frozen // 8,
        largest_trained=trained // 4,
        num_trained=8,
        layer=Weights(frozen // 10, itemsize * (frozen // 10)),
        outside=Weights(frozen // 10, itemsize * (frozen // 10)),
        small=Weights(0, 0),
        matmul_weights=frozen // 2,
        num_layers=8,
        hidden_size=64,
        vector_size=64,
    )
