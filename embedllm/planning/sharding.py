"""Memory of one device, by part, under each strategy.

P weights and T trained weights of the whole model, W processes. What a process holds:

    single, ddp   P, gradients of T, two float32 moments of T
    zero1         P, gradients of T, 1/W of (float32 copy and two moments of T)
    zero2         P, 1/W of (gradients, float32 copy and two moments of T)
    zero3         1/W of all of these, small weights whole as well, and what is gathered
    fsdp2         1/W of (P, gradients and two moments of T), and what is gathered

Of float32 weights on the device ZeRO 3 has no copy: its optimizer works on them. Of a quantised
base ZeRO 3 cuts the packed weights, not their scales; and bitsandbytes keeps 8-bit weights a second
time, whole (`Int8Params.CB`), so that nothing is saved there.

Weights keep their own types under every strategy: `trainer.precision` rounds what is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
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
# FSDP2 holds the layer at hand, the next one, and the buffer that this one is gathered in; or, when
# a layer has been trained, its gradient, the copy that is sent, and gloo's copy of that.
_LAYERS_GATHERED: Final = 3
# Tables are read or trained once in a step, when no other one is there to be gathered ahead.
_TABLES_GATHERED: Final = 2
_TABLES_REDUCED: Final = {"cpu": 3, "cuda": 2}
# ZeRO 3 puts the gradients of a bucket side by side for each rank; gloo copies what it sends.
_BUCKETS_SENT: Final = {"cpu": 2, "cuda": 1}
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
        buffers: What libraries gather, reduce and send in, and what loading takes where that is
            more than all a step does.
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
        kind, gradients = hardware.kind, self.gradients
        if self.strategy.name == "single":
            states = max(step.peak, gradients + self._update_temporaries(kind)) - gradients
        else:
            states = self._states(step)
        held = Memory(
            weights=self.weights,
            gradients=gradients,
            optimizer=self.optimizer,
            activations=states,
            buffers=self._buffers(step, kind),
            floor=hardware.floor,
        )
        if self.strategy.stage in (1, 2) and self.inventory.trainable.number <= _BUCKET:
            # Gradients go into the bucket, and from there to their owners, as the states go.
            filled = held.buffers if kind == "cuda" else 0
            moments = (
                replace(held, gradients=0, buffers=filled),
                replace(held, activations=0),
            )
            held = max(moments, key=lambda moment: moment.total)
        loading = hardware.floor + self.loading
        return replace(held, buffers=held.buffers + max(0, loading - held.total))

    def _states(self, step: StepMemory) -> int:
        """Returns what lives beside the gradients, which lie in buffers of their own.

        While those of some packs wait for the last one's, FSDP2 has none of its own: it cleared
        them before the backward pass.
        """
        cleared = self.gradients if self.strategy.name == "fsdp2" else 0
        return max(step.peak_without_gradients, step.handover - cleared)

    @property
    def _is_deepspeed(self) -> bool:
        return self.strategy.name == "deepspeed"

    @property
    def _offloads(self) -> bool:
        return self.strategy.offload != "none"

    @property
    def _trained_bytes(self) -> int:
        return self.inventory.trainable.bytes

    @property
    def whole_weights(self) -> int:
        """Bytes of all weights, in their own types."""
        return self.inventory.frozen_bytes(self.quantization) + self._trained_bytes

    @property
    def weights(self) -> int:
        """Bytes of the weights that a device holds between steps."""
        whole = self.whole_weights
        if self.strategy.name == "fsdp2":
            return -(-whole // self.world_size)
        if self.strategy.stage == 3:
            cut = whole - self._uncut
            spread = 0 if self._offloads else -(-cut // self.world_size)
            # What is small stays whole beside its share.
            small = whole * self.inventory.small.number // self.inventory.total
            return self._uncut + small + spread + self._kept_twice
        return whole

    @property
    def _uncut(self) -> int:
        """Bytes of quantised weights that are no parameters: the scales, and tables of values."""
        if self.quantization == "none":
            return 0
        of_scales = self.inventory.frozen_bytes(self.quantization) - (
            self.inventory.frozen.bytes - self.inventory.matrices.bytes
        )
        return of_scales - self._packed

    @property
    def _packed(self) -> int:
        """Bytes of quantised weights that are parameters."""
        number = self.inventory.matrices.number
        return {"none": 0, "nf4": number // 2, "int8": number}[self.quantization]

    @property
    def _kept_twice(self) -> int:
        return self._packed if self.quantization == "int8" else 0

    @property
    def loading(self) -> int:
        """Bytes that a device holds at most while the base comes, a block at a time, in float32."""
        inventory = self.inventory
        block = _FLOAT32 * max(inventory.layer.number, inventory.outside.number)
        if not self.strategy.shards_weights or self.quantization != "none":
            # Quantised blocks are cut when all of them are there.
            return self.whole_weights + block
        return self.weights + block

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
        """Two moments of a process' share, and a float32 copy of it where there is one."""
        trained = self.inventory.trainable
        works_on_them = self.strategy.stage == 3 and not self._offloads
        has_copy = not works_on_them or trained.bytes < _FLOAT32 * trained.number
        return (2 + has_copy) * _FLOAT32 * -(-trained.number // self.world_size)

    def _update_temporaries(self, kind: str) -> int:
        """Bytes that AdamW makes for a moment; the fused one makes none."""
        if self.trainer.precision.endswith("-true") or self.trainer.gradient_clip_norm == 0:
            return 0
        # On a GPU torch works on all tensors at once, elsewhere on one after another.
        if kind == "cuda":
            return self.inventory.trainable.bytes
        return 2 * _FLOAT32 * self.inventory.largest_trained

    def _buffers(self, step: StepMemory, kind: str) -> int:
        fixed = _COMMUNICATION if kind == "cuda" and self.world_size > 1 else 0
        if self.strategy.name == "fsdp2":
            return fixed + self._buffers_of_fsdp2(step, kind)
        if not self._is_deepspeed:
            return fixed
        number = self.inventory.trainable.number
        stage_3 = self.strategy.stage == 3
        most = _BUCKET if stage_3 else 2 * _BUCKET
        # Memory of a CPU is taken when it is written to, that of a GPU when it is asked for.
        bucket = _FLOAT32 * (most if kind == "cuda" else min(most, number))
        # The optimizer gets its share of the gradients in float32.
        update = 0 if self._offloads else _FLOAT32 * -(-number // self.world_size)
        if not stage_3:
            return fixed + max(bucket, update)
        sent = _BUCKETS_SENT[kind] * _FLOAT32 * min(_BUCKET, number)
        # Gradients that all fit one bucket are sent at the end, where the states are gone.
        states = self._states(step) if number <= _BUCKET else 0
        return fixed + bucket + self._gathered_by_zero + max(0, max(sent, update) - states)

    @property
    def _gathered_by_zero(self) -> int:
        """Bytes of the weights that are whole at once, beside those that always are."""
        inventory = self.inventory
        # Two weights of 4 bits are one number.
        number = inventory.total - (self._packed if self.quantization == "nf4" else 0)
        whole = self.whole_weights - self._uncut
        gathered = whole * min(_MOST_GATHERED, number) // number
        return max(0, gathered - whole * inventory.small.number // inventory.total)

    def _buffers_of_fsdp2(self, step: StepMemory, kind: str) -> int:
        """Returns what is gathered or sent, at the worst moment of a step, beside the states."""
        outside, layer = self.inventory.outside.bytes, self.inventory.layer.bytes
        states = self._states(step)
        among_layers = states + min(_LAYERS_GATHERED, self.inventory.num_layers) * layer
        if self.inventory.frozen.number:
            # Gathered ahead although no gradient asks for them.
            at_tables = step.waiting + _TABLES_GATHERED * outside + layer
        else:
            at_tables = _TABLES_REDUCED[kind] * outside
            # From the first pack's backward pass to the end of the last one's.
            among_layers += outside if step.waiting else 0
        return max(among_layers, at_tables) - states

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
