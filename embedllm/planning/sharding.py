"""Memory of one device, by part, under each strategy.

P weights and T trained weights of the whole model, W processes. What a process holds:

    single, ddp   P, gradients of T, two float32 moments of T
    zero1         P, gradients of T, 1/W of (float32 copy and two moments of T)
    zero2         P, 1/W of (gradients, float32 copy and two moments of T)
    zero3         1/W of all of these, and what is gathered for the layers at hand
    fsdp2         1/W of (P, gradients and two moments of T), and what is gathered

DeepSpeed keeps weights in 16 bits when `trainer.precision` has 16 of them (Rajbhandari et al. 2020,
arXiv 1910.02054, section 3.1); everything else keeps them in their own type.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from embedllm.config import StrategyConfig, TrainerConfig
from embedllm.planning.fake_model import Inventory
from embedllm.planning.hardware import GIB, Hardware
from embedllm.planning.step_memory import StepMemory

_FLOAT32: Final = 4
_16_BITS: Final = 2
# Lightning's reduce_bucket_size; with overlap_comm stages 1 and 2 have two of them.
_BUCKET: Final = 200_000_000
# DeepSpeed's stage3_max_live_parameters: so many are gathered before any is given up.
_MOST_GATHERED: Final = 1_000_000_000
# FSDP2 holds the layer at hand, the next one, and the buffer that this one is gathered in.
_LAYERS_GATHERED: Final = 3
# NCCL's channels; an assumption.
_COMMUNICATION: Final = int(0.4 * GIB)


@dataclass(frozen=True)
class Memory:
    """Bytes of one device at the peak of a step, by part.

    Attributes:
        weights: Frozen and trained ones.
        gradients: Of the trained weights, as long as the optimizer needs them.
        optimizer: Moments, and float32 copies where there are some.
        activations: States kept for the backward pass, temporaries, gradients on their way.
        buffers: What libraries gather, reduce and send in.
        floor: What the process holds before any tensor.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    floor: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class Spread:
    """A model spread over processes in one way.

    Attributes:
        inventory: The model.
        strategy: The way.
        trainer: Its precision and clipping decide on types and temporaries.
        world_size: Processes.
        quantization: How frozen matrices are kept.
    """

    inventory: Inventory
    strategy: StrategyConfig
    trainer: TrainerConfig
    world_size: int
    quantization: str = "none"

    def memory(self, step: StepMemory, hardware: Hardware) -> Memory:
        """Returns what one device holds at the peak of a step.

        Args:
            step: What a step takes there.
            hardware: The device.
        """
        gradients = self.gradients
        if self.strategy.name == "single":
            at_update = gradients + self._update_temporaries(hardware.kind)
            activations = max(step.peak, at_update) - gradients
        else:
            # Gradients lie in buffers of their own from the first step on, or are handed over.
            activations = step.peak_without_gradients
        return Memory(
            weights=self.weights,
            gradients=gradients,
            optimizer=self.optimizer,
            activations=activations,
            buffers=self._buffers(hardware.kind),
            floor=hardware.floor,
        )

    @property
    def _is_deepspeed(self) -> bool:
        return self.strategy.name == "deepspeed"

    @property
    def _offloads(self) -> bool:
        return self.strategy.offload != "none"

    @property
    def _in_16_bits(self) -> bool:
        return self._is_deepspeed and self.trainer.precision != "32-true"

    @property
    def _trained_bytes(self) -> int:
        trained = self.inventory.trainable
        return _16_BITS * trained.number if self._in_16_bits else trained.bytes

    @property
    def whole_weights(self) -> int:
        """Bytes of all weights, in the types that they have under this strategy."""
        frozen = self.inventory.frozen_bytes(self.quantization)
        if self._in_16_bits and self.quantization == "none":
            frozen = _16_BITS * self.inventory.frozen.number
        return frozen + self._trained_bytes

    @property
    def weights(self) -> int:
        """Bytes of the weights that a device holds between steps."""
        whole = self.whole_weights
        if self.strategy.name == "fsdp2":
            return -(-whole // self.world_size)
        if self.strategy.stage == 3:
            small = whole * self.inventory.small.number // self.inventory.total
            spread = 0 if self._offloads else -(-(whole - small) // self.world_size)
            return small + spread
        return whole

    @property
    def gradients(self) -> int:
        """Bytes of the gradients that a device holds until the optimizer has used them."""
        if self._offloads:
            return 0
        if self.strategy.name == "fsdp2" or self.strategy.stage in (2, 3):
            return -(-self._trained_bytes // self.world_size)
        return self._trained_bytes

    @property
    def optimizer(self) -> int:
        """Bytes of the optimizer's state on a device."""
        if self._offloads:
            return 0
        if self._is_deepspeed:
            return self._optimizer_of_zero
        moments = 2 * self.inventory.trainable.bytes
        if self.strategy.name == "fsdp2":
            return -(-moments // self.world_size)
        # AdamW counts its steps for every tensor.
        return moments + _FLOAT32 * self.inventory.num_trained

    @property
    def _optimizer_of_zero(self) -> int:
        """Float32 copy and two moments of a process' share."""
        return 3 * _FLOAT32 * -(-self.inventory.trainable.number // self.world_size)

    def _update_temporaries(self, kind: str) -> int:
        """Bytes that AdamW makes for a moment; the fused one makes none."""
        if self.trainer.precision.endswith("-true") or self.trainer.gradient_clip_norm == 0:
            return 0
        # On a GPU torch works on all tensors at once, elsewhere on one after another.
        if kind == "cuda":
            return self.inventory.trainable.bytes
        return 2 * _FLOAT32 * self.inventory.largest_trained

    def _buffers(self, kind: str) -> int:
        fixed = _COMMUNICATION if kind == "cuda" and self.world_size > 1 else 0
        if self.strategy.name == "fsdp2":
            layers = min(_LAYERS_GATHERED, self.inventory.num_layers)
            return fixed + self.inventory.outside.bytes + layers * self.inventory.layer.bytes
        if not self._is_deepspeed:
            return fixed
        number = self.inventory.trainable.number
        each = _16_BITS if self._in_16_bits else _FLOAT32
        stage_3 = self.strategy.stage == 3
        most = _BUCKET if stage_3 else 2 * _BUCKET
        # Memory of a CPU is taken when it is written to, that of a GPU when it is asked for.
        reduced = each * (most if kind == "cuda" else min(most, number))
        # The optimizer gets its share of the gradients in float32.
        update = 0 if self._offloads else _FLOAT32 * -(-number // self.world_size)
        gathered = 0
        if stage_3:
            gathered = self.whole_weights
            if self.inventory.total > _MOST_GATHERED:
                gathered = gathered * _MOST_GATHERED // self.inventory.total
        return fixed + reduced + update + gathered

    @property
    def offloaded(self) -> int:
        """Bytes of host memory that a process fills with what it offloads."""
        if not self._offloads:
            return 0
        share = -(-self.inventory.trainable.number // self.world_size)
        # Beside the optimizer's state lie gradients in float32 and updated weights.
        states = self._optimizer_of_zero + (_FLOAT32 + _16_BITS) * share
        if self.strategy.stage != 3:
            return states
        weights = -(-self.whole_weights // self.world_size)
        # On a disk nothing but buffers stays behind.
        return weights if self.strategy.offload == "nvme" else states + weights

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint: trained weights and two moments, whole, in one file.

        The frozen base is not in it. DeepSpeed's are in float32.
        """
        trained = self.inventory.trainable
        each = _FLOAT32 * trained.number if self._is_deepspeed else trained.bytes
        return 3 * each
