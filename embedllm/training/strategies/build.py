"""Configuration to Lightning strategy."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from embedllm.config import StrategyConfig
from embedllm.ranks import current_rank


def build_strategy(config: StrategyConfig, precision: str, device: torch.device) -> Strategy:
    """Returns the strategy, for a process group that is joined already.

    Args:
        config: Name and options.
        precision: `trainer.precision`.
        device: This process' device.
    """
    timeout = timedelta(seconds=config.timeout_seconds)
    if config.name == "deepspeed":
        # Read when DeepSpeed is imported.
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from embedllm.training.strategies.zero import ZeroStrategy
        from embedllm.training.strategies.zero_precision import ZeroPrecision

        return ZeroStrategy(config, ZeroPrecision(precision, device), timeout=timeout)
    if config.name == "fsdp2":
        from embedllm.training.strategies.fsdp import ShardedStrategy

        return ShardedStrategy(timeout=timeout)
    if config.name == "ddp" and current_rank().world_size > 1:
        # Buffers are tables of positions, the same everywhere.
        options: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        return DDPStrategy(timeout=timeout, **options)
    return SingleDeviceStrategy(device)
