"""DeepSpeed's ZeRO under Lightning, on GPUs and on CPUs, with the gradients of one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, cast

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from embedllm.config import StrategyConfig
from embedllm.models.whole import trainable_parameters
from embedllm.training.strategies.one_file import OneFile
from embedllm.training.strategies.optimizer_state import number_states, set_options
from embedllm.training.strategies.zero_precision import ZeroPrecision

_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class ZeroStrategy(OneFile, DeepSpeedStrategy):
    """ZeRO 1, 2 or 3 with checkpoints that do not depend on the number of processes.

    Lightning's own class takes CUDA alone, divides the gradients of accumulated batches twice, and
    builds models inside `zero.Init`, which leaves a new adapter with other initial weights.

    Args:
        config: Stage and offload.
        precision: What `trainer.precision` means here.
        timeout: How long one rank waits for another.
    """

    def __init__(
        self, config: StrategyConfig, precision: ZeroPrecision, *, timeout: timedelta
    ) -> None:
        options: dict[str, Any] = {}
        if config.offload != "none":
            options |= {"offload_optimizer": True, "offload_optimizer_device": config.offload}
            if config.stage == 3:
                options |= {"offload_parameters": True, "offload_params_device": config.offload}
            if config.nvme_path is not None:
                options["nvme_path"] = config.nvme_path
        stage = cast(int, config.stage)
        super().__init__(stage=stage, timeout=timeout, precision_plugin=precision, **options)
        self._precision = precision
        assert isinstance(self.config, dict)
        # Both would cast weights, which `ZeroPrecision` leaves alone.
        self.config |= {"fp16": {"enabled": False}, "bf16": {"enabled": False}}
        # The optimizer is torch's, whose state is small with an adapter; DeepSpeed's own for host
        # memory has to be compiled where it runs.
        self.config["zero_force_ds_cpu_optimizer"] = False

    @property
    def _is_on_cpu(self) -> bool:
        return not torch.cuda.is_available() or super().root_device.type == "cpu"

    def setup_environment(self) -> None:
        """Prepares the processes, on CPUs too."""
        if not self._is_on_cpu:
            super().setup_environment()
            return
        # Shared memory between CPU ranks would have to be compiled first; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Joins the ranks, who have a process group already."""
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        """This process' device; DeepSpeed wants a number for CPUs too."""
        device = super().root_device
        return torch.device("cpu", 0) if device.type == "cpu" else device

    @property
    def handles_gradient_accumulation(self) -> bool:
        """Lightning says when a step is due: also after the last batches of an epoch, if fewer."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Leaves it to DeepSpeed, which knows whether a step will follow."""
        yield

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Tells DeepSpeed, before the forward pass, whether an optimizer step will follow."""
        assert self.lightning_module is not None
        is_last = not self.lightning_module.trainer.fit_loop._should_accumulate()
        self.deepspeed_engine.set_gradient_accumulation_boundary(is_last)
        return super().training_step(*args, **kwargs)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Computes gradients; Lightning has divided the loss by the accumulated batches already."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def init_deepspeed(self) -> None:
        """Starts DeepSpeed's engine around the module."""
        super().init_deepspeed()
        self._precision.watch(self.optimizers[0])

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Builds models as they are; DeepSpeed takes them apart when it starts."""
        self._init_config_if_needed()
        yield

    @property
    def has_left_out_step(self) -> bool:
        """Whether DeepSpeed found a gradient that is not finite, on any rank, and made no step.

        With 16-mixed that is how it finds the scale of the loss, and no fault.
        """
        zero: Any = self.optimizers[0]
        return bool(zero.overflow) and not self._precision.scales_loss

    # --- Checkpoints -------------------------------------------------------------------------

    @property
    def _trainable(self) -> list[nn.Parameter]:
        assert self.lightning_module is not None
        return [p for _, p in trainable_parameters(self.lightning_module)]

    @property
    def _inner_optimizer(self) -> Optimizer:
        """Torch's optimizer, whose parameters are flat pieces of the model's."""
        return cast(Optimizer, cast(Any, self.optimizers[0]).optimizer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Returns the whole trainable weights in float32 on rank 0, nothing on the others."""
        assert self.lightning_module is not None
        state = {}
        for name, parameter in trainable_parameters(self.lightning_module):
            # All ranks give their pieces.
            whole = cast(Tensor, safe_get_full_fp32_param(parameter))
            if self.is_global_zero:
                state[name] = whole.cpu()
        return state

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Sets the trainable weights, and the float32 copies that the optimizer works on."""
        assert self.lightning_module is not None
        for name, parameter in trainable_parameters(self.lightning_module):
            value = checkpoint["state_dict"][name].to(self.root_device)
            safe_set_full_fp32_param(parameter, value)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(value)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the whole state of the optimizer on rank 0, as torch has it on one process."""
        inner = self._inner_optimizer
        step = _step_of(inner)
        states: list[dict[str, Tensor]] = []
        for parameter in self._trainable:
            # Before its first step the optimizer has no state.
            keys = _MOMENTS if inner.state else ()
            moments = {key: safe_get_full_optimizer_state(parameter, key) for key in keys}
            if not self.is_global_zero:
                continue
            states.append({key: value.cpu() for key, value in moments.items()})
            if moments:
                # One for each: torch counts them up in place.
                states[-1]["step"] = step.clone()
        return number_states(states, inner) if self.is_global_zero else {}

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The state is in Lightning's checkpoint."""
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Sets the state of the optimizer from whole tensors."""
        [saved] = checkpoint["optimizer_states"]
        set_options(self._inner_optimizer, saved)
        if not saved["state"]:
            return
        self._make_room_for_state(saved["state"][0]["step"])
        for i, parameter in enumerate(self._trainable):
            for key in _MOMENTS:
                value = saved["state"][i][key].to(self.root_device)
                safe_set_full_optimizer_state(parameter, value, key)

    def _make_room_for_state(self, step: Tensor) -> None:
        """Gives torch's optimizer the state that it has after its first step, empty."""
        zero: Any = self.optimizers[0]
        is_stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
        pieces = (
            zero.fp32_partitioned_groups_flat
            if is_stage_3
            else zero.single_partition_of_fp32_groups
        )
        for piece in pieces:
            moments = {key: torch.zeros_like(piece) for key in _MOMENTS}
            zero.optimizer.state[piece] = {"step": step.clone(), **moments}
        if not is_stage_3:
            # Done by DeepSpeed in the first step else.
            zero._lazy_init_hp_params_optimizer_state()


def _step_of(optimizer: Optimizer) -> Tensor:
    """Returns how many steps the optimizer has made; all its pieces say the same."""
    for state in optimizer.state.values():
        if "step" in state:
            return cast(Tensor, state["step"]).clone().cpu()
    return torch.tensor(0.0)
