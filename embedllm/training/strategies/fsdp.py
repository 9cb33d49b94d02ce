"""torch's FSDP2 under Lightning: every layer's weights are spread over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from embedllm.models.whole import trainable_parameters
from embedllm.ranks import current_rank
from embedllm.training.strategies.one_file import OneFile
from embedllm.training.strategies.optimizer_state import number_states, set_options


class ShardedStrategy(OneFile, ModelParallelStrategy):
    """FSDP2 over all ranks, with checkpoints that do not depend on their number.

    Args:
        timeout: How long one rank waits for another.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=current_rank().world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Returns the whole trainable weights on rank 0, nothing on the others."""
        assert self.model is not None
        return get_model_state_dict(self.model, options=_whole())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Sets the trainable weights, each rank its part."""
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint["state_dict"], options=_whole(strict=False))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the whole state of the optimizer on rank 0, as torch has it on one process."""
        assert self.model is not None
        assert self.lightning_module is not None
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        names = [name for name, _ in trainable_parameters(self.lightning_module)]
        if not optimizer.state:
            # Before its first step; torch would make one to have a state.
            return number_states([{} for _ in names], optimizer)
        found: dict[str, Any] = get_optimizer_state_dict(self.model, optimizer, options=_whole())
        state = found.get("state")
        if not state:
            return {}
        return number_states([state[name] for name in names], optimizer)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The state is in Lightning's checkpoint."""
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Sets the state of the optimizer from whole tensors."""
        assert self.model is not None
        assert self.lightning_module is not None
        [saved] = checkpoint["optimizer_states"]
        [optimizer] = self.optimizers
        if not saved["state"]:
            set_options(optimizer, saved)
            return
        names = [name for name, _ in trainable_parameters(self.lightning_module)]
        named: dict[str, Any] = {
            "state": {name: saved["state"][i] for i, name in enumerate(names)},
            "param_groups": [{**saved["param_groups"][0], "params": names}],
        }
        set_optimizer_state_dict(self.model, optimizer, named, options=_whole())


def _whole(*, strict: bool = True) -> StateDictOptions:
    return StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=strict
    )
