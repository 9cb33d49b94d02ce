"""A trunk's weights over several ranks, gathered layer by layer when they are needed.

They are spread while the trunk is loaded, block by block, so that no process ever holds them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from embedllm.config import ModelConfig, StrategyConfig
from embedllm.distributed import is_joined
from embedllm.models.backbone import largest_weight
from embedllm.models.weight_stream import Shard
from embedllm.ranks import current_rank


@dataclass(frozen=True)
class Spreading:
    """How a trunk is spread.

    Attributes:
        shard: Cuts a module's weights down to this rank's share.
        start: Makes a trunk in pieces gather what it needs when it is called; None where it does
            so by itself, or where a trainer sees to it.
        may_read_early: Whether the last layer may run in two parts, which libraries that follow
            every module's call do not take.
        may_train_prefix: Whether gradients may enter a layer by its keys and values, as those of a
            shared prefix do.
    """

    shard: Shard
    start: Callable[[nn.Module], object] | None
    may_read_early: bool
    may_train_prefix: bool


def spreading_of(
    strategy: StrategyConfig,
    model: ModelConfig,
    cache_dir: Path,
    *,
    device: torch.device,
    training: bool = False,
) -> Spreading | None:
    """Returns how a strategy spreads a trunk; None when every process holds it whole.

    Args:
        strategy: `fsdp2` or ZeRO 3 spread, what it says about offloading included.
        model: Whose trunk it is.
        cache_dir: Where converted models lie.
        device: This rank's device.
        training: Whether Lightning's strategy will run the trunk.
    """
    # ZeRO 3 has its own way to run a model, and a place to offload it to, on one process too.
    if not strategy.shards_weights or not (is_joined() or strategy.stage == 3):
        return None
    if strategy.name == "fsdp2":
        mesh = init_device_mesh(device.type, (current_rank().world_size,))
        # A layer gathers its weights when a gradient reaches what it returns, and keys and values
        # are none of it; tries share the beginnings all the same, pack by pack.
        return Spreading(
            partial(fully_shard, mesh=mesh), None, may_read_early=True, may_train_prefix=False
        )
    zero: dict[str, Any] = {"stage": 3}
    if strategy.offload != "none":
        offload: dict[str, Any] = {"device": strategy.offload, "nvme_path": strategy.nvme_path}
        if strategy.offload == "nvme":
            # Each of the buffers between disk and device has room for any one weight.
            offload["buffer_size"] = largest_weight(model, cache_dir)
        zero["offload_param"] = offload
    options = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    return Spreading(
        _ZeroShard(options),
        None if training else partial(_start_zero, options=options),
        may_read_early=False,
        may_train_prefix=True,
    )


class _ZeroShard:
    """Cuts modules one after the other, which share what reads and writes a disk.

    Args:
        options: DeepSpeed's configuration.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._first: Any = None

    def __call__(self, module: nn.Module) -> None:
        whole = [p for p in module.parameters() if not hasattr(p, "ds_id")]
        if self._first is not None:
            self._first.convert_to_zero_parameters(param_list=whole)
        elif whole:
            zero, dtype = _deepspeed().zero, whole[0].dtype
            zero.Init(module=module, config_dict_or_path=self._options, dtype=dtype)
            self._first = whole[0]


def _start_zero(trunk: nn.Module, options: dict[str, Any]) -> None:
    dtype = next(trunk.parameters()).dtype
    if dtype in (torch.bfloat16, torch.float16):
        name = "bf16" if dtype == torch.bfloat16 else "fp16"
        options = {**options, name: {"enabled": True}}
    _deepspeed().initialize(model=trunk, config=options, dist_init_required=False)


def _deepspeed() -> Any:
    is_on_cpu = not torch.cuda.is_available()
    if is_on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if is_on_cpu:
        # Shared memory between CPU ranks would have to be compiled first; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
