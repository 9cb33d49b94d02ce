"""Parts of a device's memory by strategy: the arithmetic, and what must never be otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_configs import GIB, OFFLOADED, STEP, ZERO, gpu, inventory

from embedllm.config import StrategyConfig, TrainerConfig
from embedllm.planning.cost import count_flops, count_traffic, estimate_time
from embedllm.planning.fake_model import Weights
from embedllm.planning.hardware import Hardware
from embedllm.planning.sharding import Memory, Spread
from embedllm.planning.step_memory import StepMemory
from embedllm.planning.workload import PackShape, Workload

SINGLE, DDP, FSDP2 = (StrategyConfig(name) for name in ("single", "ddp", "fsdp2"))
SPREAD = (DDP, *ZERO.values(), FSDP2, *OFFLOADED.values())
QUANTIZATIONS = ("none", "nf4", "int8")
MIXED = TrainerConfig(precision="bf16-mixed")
CPU = gpu(kind="cpu")
WORK = Workload((PackShape(8, 16, 8),) * 4, 10, 8, 24, 32, 32 * 26)


def spread(
    strategy: StrategyConfig,
    world_size: int = 4,
    *,
    frozen: int = 1000,
    trained: int = 100,
    trainer: TrainerConfig = MIXED,
    quantization: str = "none",
) -> Spread:
    return Spread(inventory(frozen, trained), strategy, trainer, world_size, quantization)


def memory(made: Spread, hardware: Hardware = CPU) -> Memory:
    return made.memory(STEP, hardware)


def test_one_process_holds_everything() -> None:
    found = memory(spread(SINGLE, 1, trainer=TrainerConfig(precision="32-true")))
    assert found.weights == 2 * 1000 + 4 * 100
    assert found.gradients == 4 * 100
    assert found.optimizer == 2 * 4 * 100 + 4 * 8
    assert found.activations == STEP.peak - 400
    assert found.buffers == found.floor == 0
    assert found.total == STEP.peak + 2000 + 400 + 800 + 32


def test_an_update_can_take_more_than_the_step() -> None:
    small = replace(STEP, peak=500)
    made = spread(SINGLE, 1)
    assert made.memory(small, gpu()).activations == 400
    assert made.memory(small, CPU).activations == 2 * 4 * 25
    fused = spread(SINGLE, 1, trainer=TrainerConfig(precision="32-true"))
    assert fused.memory(small, gpu()).activations == 100


def test_ddp_is_one_process_with_lasting_gradients() -> None:
    found, single = memory(spread(DDP)), memory(spread(SINGLE, 1))
    assert (found.weights, found.optimizer) == (single.weights, single.optimizer)
    assert found.gradients == 400
    assert found.activations == STEP.peak_without_gradients


def test_zero_shares_one_part_after_the_other() -> None:
    first, second, third = (spread(ZERO[stage]) for stage in (1, 2, 3))
    assert first.weights == second.weights == 2400
    assert third.weights == 2400 // 4
    # For a quarter of the trained weights a copy, which ZeRO 3 does without, and two moments.
    assert first.optimizer == second.optimizer == 3 * 4 * 25
    assert third.optimizer == 2 * 4 * 25
    assert first.gradients == 4 * 100
    assert second.gradients == third.gradients == 4 * 25


@pytest.mark.parametrize("strategy", SPREAD)
def test_precision_changes_no_type_of_a_weight(strategy: StrategyConfig) -> None:
    full = spread(strategy, trainer=TrainerConfig(precision="32-true"))
    mixed = spread(strategy)
    assert full.weights == mixed.weights
    assert full.gradients == mixed.gradients
    assert full.optimizer == mixed.optimizer


def test_weights_that_zero_3_leaves_whole() -> None:
    made = spread(ZERO[3])
    small = replace(
        made, inventory=replace(made.inventory, small=replace(made.inventory.small, number=110))
    )
    # Whole, and a share like all others.
    assert small.weights == 240 + 2400 // 4


def test_fsdp2_shares_everything_and_gathers_layers() -> None:
    made = spread(FSDP2)
    assert made.weights == (2 * 1000 + 4 * 100) // 4
    assert (made.gradients, made.optimizer) == (100, 200)
    # Three layers.
    assert memory(made).buffers == 3 * 200
    no_states = StepMemory(peak=0, peak_without_gradients=0, kept=0)
    # A frozen table is gathered and copied, beside a layer.
    assert made.memory(no_states, CPU).buffers == 3 * 200
    trained = spread(FSDP2, frozen=0, trained=10_000)
    trained = replace(trained, inventory=replace(trained.inventory, outside=Weights(4_000, 16_000)))
    # The gradient of a table, the copy that is sent, and gloo's copy of it.
    for hardware, copies in ((CPU, 3), (gpu(), 2)):
        fixed = 0 if hardware is CPU else int(0.4 * GIB)
        found = trained.memory(no_states, hardware).buffers
        assert found == fixed + copies * 16_000


def test_gradients_that_wait_for_other_packs() -> None:
    step = replace(STEP, handover=STEP.peak_without_gradients + 1000, waiting=100)
    assert memory(spread(DDP)).activations == STEP.peak_without_gradients
    assert spread(DDP).memory(step, CPU).activations == step.handover
    # FSDP2 has cleared its own by then.
    assert spread(FSDP2).memory(step, CPU).activations == step.handover - 100


def test_weights_of_16_bits_have_a_copy_of_32_under_every_stage() -> None:
    halves = replace(inventory(1000, 100), trainable=Weights(100, 200))
    for stage in (1, 2, 3):
        made = replace(spread(ZERO[stage]), inventory=halves)
        assert made.optimizer == 3 * 4 * 25


def test_zero_3_cuts_packed_weights_and_nothing_else_of_a_quantised_base() -> None:
    plain, nf4, int8 = (spread(ZERO[3], trained=0, quantization=q) for q in QUANTIZATIONS)
    kept = 2 * 500
    assert plain.weights == (2 * 500 + kept) // 4
    # 500 weights of 4 bits, and as many of 8, which bitsandbytes keeps whole as well.
    assert nf4.weights == -(-(250 + kept) // 4)
    assert int8.weights == (500 + kept) // 4 + 500
    # Before it is cut the base is there, whole, and a block of 32 bits.
    for made in (nf4, int8):
        assert made.loading == made.whole_weights + 4 * 100
    assert plain.loading == plain.weights + 4 * 100


def test_loading_can_take_more_than_a_step() -> None:
    made = spread(ZERO[3], trained=0, quantization="nf4")
    no_states = StepMemory(peak=0, peak_without_gradients=0, kept=0)
    assert made.memory(no_states, CPU).total == made.loading
    assert made.memory(STEP, CPU).total > made.loading + STEP.peak_without_gradients // 2


def test_offloading_moves_parts_to_the_host() -> None:
    second, third = (spread(OFFLOADED[stage]) for stage in (2, 3))
    assert second.weights == 2400
    assert third.weights == 0
    assert second.gradients == second.optimizer == third.gradients == third.optimizer == 0
    assert second.offloaded == 25 * (12 + 4 + 2)
    assert third.offloaded == second.offloaded + 2400 // 4
    assert spread(ZERO[3]).offloaded == 0
    on_disk = spread(StrategyConfig("deepspeed", stage=3, offload="nvme", nvme_path="/scratch"))
    assert on_disk.offloaded == 2400 // 4


def test_buckets_of_a_gpu_are_whole_and_those_of_a_cpu_as_filled() -> None:
    on_gpu, on_cpu = (memory(spread(ZERO[2]), hardware).buffers for hardware in (gpu(), CPU))
    assert on_gpu > 2 * 4 * 200_000_000
    assert on_cpu == 0
    # Without states it is the end of the backward pass that counts.
    small = StepMemory(peak=0, peak_without_gradients=0, kept=0)
    many = spread(ZERO[2], trained=10_000).memory(small, CPU)
    assert (many.buffers, many.gradients) == (4 * 10_000, 4 * 2500)


def test_a_checkpoint_has_trained_weights_and_moments_only() -> None:
    assert spread(SINGLE, 1).checkpoint == spread(DDP).checkpoint == 3 * 400
    assert spread(ZERO[3], frozen=10**9).checkpoint == 3 * 400


def test_quantised_weights() -> None:
    plain, nf4, int8 = (spread(DDP, quantization=q).weights for q in ("none", "nf4", "int8"))
    assert plain - nf4 == 2 * 500 - 250
    assert plain - int8 == 2 * 500 - 500


numbers = st.integers(1, 10**11)
strategies = st.sampled_from(SPREAD)
trainers = st.sampled_from([MIXED, TrainerConfig(precision="32-true")])


@given(numbers, numbers, strategies, st.integers(2, 512), trainers)
def test_more_processes_never_need_more_memory(
    frozen: int, trained: int, strategy: StrategyConfig, world_size: int, trainer: TrainerConfig
) -> None:
    few, many = (
        spread(strategy, size, frozen=frozen, trained=trained, trainer=trainer)
        for size in (world_size, 2 * world_size)
    )
    assert memory(many, gpu()).total <= memory(few, gpu()).total
    assert many.offloaded <= few.offloaded


@given(numbers, numbers, strategies, st.integers(2, 512), st.integers(1, 10**9))
def test_larger_models_never_need_less(
    frozen: int, trained: int, strategy: StrategyConfig, world_size: int, more: int
) -> None:
    small = spread(strategy, world_size, frozen=frozen, trained=trained)
    wide = spread(strategy, world_size, frozen=frozen + more, trained=trained)
    rich = spread(strategy, world_size, frozen=frozen, trained=trained + more)
    totals = [memory(made, gpu()).total for made in (small, wide, rich)]
    # Rounding of single tensors in this made-up inventory.
    assert totals[0] <= min(totals[1:]) + 1024


@given(numbers, numbers, st.integers(2, 512))
def test_each_stage_of_zero_holds_no_more_than_the_one_before(
    frozen: int, trained: int, world_size: int
) -> None:
    made = [spread(ZERO[s], world_size, frozen=frozen, trained=trained) for s in (1, 2, 3)]
    held = [each.weights + each.gradients + each.optimizer for each in made]
    assert held == sorted(held, reverse=True)


def test_operations_of_a_step() -> None:
    counted = inventory()
    tokens, weights, adapter = WORK.trunk_tokens, counted.matmul_weights, 10_000
    plain = count_flops(counted, WORK, world_size=2, checkpointing="none")
    assert plain.useful == 2 * 4 * weights * WORK.text_tokens
    assert plain.executed == 2 * tokens * (4 * weights + 6 * adapter)
    again = count_flops(counted, WORK, world_size=2, checkpointing="packs")
    assert again.useful == plain.useful
    assert again.executed - plain.executed == 2 * tokens * 2 * (weights + adapter)
    both = count_flops(counted, WORK, world_size=2, checkpointing="all")
    assert both.executed - again.executed == again.executed - plain.executed
    all_trained = replace(inventory(0, 10**6), matmul_weights=1000)
    full = count_flops(all_trained, WORK, world_size=1, checkpointing="none")
    assert full.useful == 6 * 1000 * WORK.text_tokens
    assert full.executed == 6 * 1000 * tokens


def test_traffic() -> None:
    assert count_traffic(spread(SINGLE, 1), WORK, checkpointing="none") == 0
    assert count_traffic(spread(DDP), WORK, checkpointing="none") == 2 * 400 * 3 // 4
    gathers = (4 + 1) * 3
    sharded = count_traffic(spread(ZERO[3]), WORK, checkpointing="packs")
    assert sharded == (400 + gathers * 2400) * 3 // 4
    assert count_traffic(spread(OFFLOADED[2], 1), WORK, checkpointing="none") == 400


def test_seconds_of_a_step() -> None:
    flops = count_flops(inventory(), WORK, world_size=2, checkpointing="none")
    one = estimate_time(flops, 10**9, gpu(), dtype=torch.bfloat16, world_size=2, num_nodes=1)
    assert one is not None
    assert one.compute == pytest.approx(flops.executed / 2 / 50e12)
    assert one.communication == pytest.approx(1e9 / 100e9)
    two = estimate_time(flops, 10**9, gpu(), dtype=torch.float32, world_size=2, num_nodes=2)
    assert two is not None
    assert two.compute == pytest.approx(10 * one.compute)
    assert two.communication == pytest.approx(10 * one.communication)
    assert two.total == two.compute + two.communication
    assert gpu(flops_16=None).flops(torch.bfloat16) is None
