"""A trunk's weights over several ranks, gathered layer by layer when they are needed."""

from __future__ import annotations

import os
from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from embedllm.config import StrategyConfig
from embedllm.distributed import is_joined
from embedllm.models.backbone import decoder_layers
from embedllm.models.embedder import Embedder
from embedllm.ranks import current_rank


def spread_for_use(embedder: Embedder, strategy: StrategyConfig, device: torch.device) -> None:
    """Spreads an embedder that is only used, not trained, in place.

    With a strategy whose ranks hold all weights, and on a single process, it stays as it is.

    Args:
        embedder: The embedder, the same on all ranks.
        strategy: `fsdp2` or ZeRO 3; what it says about offloading counts for the weights.
        device: This rank's device.
    """
    if not is_joined() or not strategy.shards_weights:
        return
    if strategy.name == "fsdp2":
        mesh = init_device_mesh(device.type, (current_rank().world_size,))
        embedder.spread(partial(shard_layers, mesh=mesh))
    else:
        embedder.spread(partial(_shard_by_zero, strategy=strategy), may_read_early=False)


def shard_layers(trunk: nn.Module, mesh: DeviceMesh) -> None:
    """Spreads a trunk's weights by FSDP2, in place: a layer at a time, and what is left."""
    for layer in decoder_layers(trunk)[2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(trunk, mesh=mesh)


def _shard_by_zero(trunk: nn.Module, strategy: StrategyConfig) -> None:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if not torch.cuda.is_available():
        # Shared memory between CPU ranks would have to be compiled first; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    zero: dict[str, object] = {"stage": 3}
    if strategy.offload != "none":
        zero["offload_param"] = {"device": strategy.offload, "nvme_path": strategy.nvme_path}
    options = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    dtype = next(trunk.parameters()).dtype
    if dtype in (torch.bfloat16, torch.float16):
        options["bf16" if dtype == torch.bfloat16 else "fp16"] = {"enabled": True}
    deepspeed.initialize(model=trunk, config=options, dist_init_required=False)
