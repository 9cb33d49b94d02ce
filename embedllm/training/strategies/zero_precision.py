"""`trainer.precision` under DeepSpeed: what it means under every other strategy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from torch import nn

# Those of torch's GradScaler, which the other strategies have.
_FIRST_SCALE: Final = 2**16
_STEPS_TO_DOUBLE: Final = 2000
_SCALER_STATE: Final = ("cur_scale", "cur_iter", "last_overflow_iter")


class ZeroPrecision(DeepSpeedPrecision):
    """Leaves the weights in their types; mixed precision rounds what is multiplied, by autocast.

    Lightning would turn 16-bit weights into 32 bits, or have DeepSpeed turn all into 16; neither
    reaches weights that were cut while they were loaded, so each stage would compute another thing.

    Args:
        precision: `trainer.precision`.
        device: This process' device; on a CPU 16-mixed is bfloat16, as Lightning has it.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        super().__init__(cast(Any, precision))
        self._device = device
        self._scaler: DynamicLossScaler | None = None

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Returns the module, in bfloat16 under bf16-true alone."""
        return module if self.precision == "32-true" else super().convert_module(module)

    @contextmanager
    def train_step_context(self) -> Iterator[None]:
        """Does nothing: DeepSpeed ends an autocast that was begun outside of its engine."""
        yield

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Rounds what is multiplied; for use inside the engine."""
        if not self.precision.endswith("-mixed"):
            with super().forward_context():
                yield
            return
        dtype = torch.bfloat16 if self._device.type == "cpu" else self._desired_dtype
        # Casts that are kept until the step ends would be all weights once more.
        with torch.autocast(self._device.type, dtype=dtype, cache_enabled=False):
            yield

    @property
    def scales_loss(self) -> bool:
        """Whether gradients would vanish in float16 if the loss were not made larger."""
        return self.precision == "16-mixed"

    def watch(self, zero: Any) -> None:
        """Makes DeepSpeed's optimizer scale the loss, and leave out steps that are not finite.

        By itself it scales the loss of float16 weights alone, and asks no bfloat16 gradient.

        Args:
            zero: The optimizer that DeepSpeed has put around torch's.
        """
        if zero.dtype == torch.bfloat16:
            zero.check_grad_overflow = True
        if self.scales_loss:
            self._scaler = DynamicLossScaler(
                init_scale=_FIRST_SCALE,
                scale_window=_STEPS_TO_DOUBLE,
                min_scale=1,
                delayed_shift=1,
                consecutive_hysteresis=False,
                raise_error_at_min_scale=False,
            )
            zero.loss_scaler, zero.dynamic_loss_scale = self._scaler, True

    def state_dict(self) -> dict[str, Any]:
        """Returns the scale of the loss for the checkpoint."""
        scaler = self._scaler
        return {} if scaler is None else {name: getattr(scaler, name) for name in _SCALER_STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Sets the scale of the loss from a checkpoint."""
        for name, value in state_dict.items():
            setattr(self._scaler, name, value)
