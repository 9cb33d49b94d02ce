"""Whole profiles of tiny models: parts, operations, tokens, and that the step is training's own."""

from __future__ import annotations

import json
import statistics
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny_runs import compose_typed, tiny_config, train_tiny

from embedllm.config import ProfileConfig
from embedllm.data.examples import load_training_data
from embedllm.models.adapters import adapter_state
from embedllm.models.backbone import resolve_device
from embedllm.models.loading import load_encoder
from embedllm.planning import ceiling
from embedllm.planning.ceiling import Ceiling, MatrixProduct
from embedllm.profiling import train_step
from embedllm.profiling.command import compute_dtype, measure_profile
from embedllm.profiling.observers import Observer
from embedllm.profiling.report import Profile, print_profile, to_plain, to_unit
from embedllm.profiling.sections import ENCODE_PARTS, TRAIN_PARTS, Part, Sections
from embedllm.profiling.steps import PartCost, StepCost
from embedllm.profiling.train_step import run_train_steps
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize

TINY_OPT_WEIGHTS = 16_384
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quick_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "_SQUARES", {"cpu": (128,)})
    monkeypatch.setattr(ceiling, "_MIN_SECONDS", 0.01)


def compose_profile(*overrides: str) -> ProfileConfig:
    base = ["model=tiny", "data.global_batch_size=8", "profile.num_steps=2"]
    config = compose_typed("profile", *base, "trainer.accelerator=cpu", *overrides)
    assert isinstance(config, ProfileConfig)
    return config


@cache
def measure(*overrides: str) -> Profile:
    """Returns a profile; several tests look at the same one."""
    return measure_profile(compose_profile(*overrides))


def part_flops(profile: Profile) -> dict[Part, int]:
    return {cost.part: cost.flops for cost in profile.cost.parts}


def check_sums(profile: Profile) -> None:
    plain = to_plain(profile)
    cost = profile.cost
    assert plain["step"]["seconds"] == sum(part["seconds"] for part in plain["parts"])
    assert sum(part["share"] for part in plain["parts"]) == pytest.approx(1)
    assert plain["flops"]["executed"] == sum(part["flops"] for part in plain["parts"])
    # A median of each part: their sum lies among the steps.
    assert min(cost.step_seconds) / 2 < cost.seconds < 2 * max(cost.step_seconds)
    assert all(part.seconds >= 0 for part in cost.parts)
    # One thread computes; another one makes the data.
    assert 0 < cost.processor_seconds < 2 * max(cost.step_seconds)
    for fraction in plain["fraction_of_ceiling"].values():
        assert 0 < fraction <= 1.2
    json.dumps(plain, allow_nan=False)


def test_a_training_step() -> None:
    profile = measure()
    check_sums(profile)
    assert tuple(cost.part for cost in profile.cost.parts) == TRAIN_PARTS
    seconds = {cost.part: cost.seconds for cost in profile.cost.parts}
    assert all(seconds[part] > 0 for part in TRAIN_PARTS if part is not Part.RECOMPUTATION)
    assert seconds[Part.RECOMPUTATION] == 0
    flops = part_flops(profile)
    computing = (Part.PREFIX, Part.TRUNK, Part.LOSS, Part.BACKWARD)
    assert {part for part, number in flops.items() if number} == set(computing)
    assert flops[Part.BACKWARD] > flops[Part.TRUNK]
    # Cosines of 8 anchors with 16 candidates of width 32.
    assert flops[Part.LOSS] == 2 * 8 * 16 * 32
    assert len(profile.cost.step_seconds) == 2
    assert profile.num_texts == 24
    assert 0 < profile.num_trunk_tokens < profile.num_real_tokens
    assert profile.useful_flops == 4 * TINY_OPT_WEIGHTS * profile.num_real_tokens


def test_all_weights_need_half_as_much_again() -> None:
    profile = measure("adapter=full", "trainer.learning_rate=1e-5")
    assert profile.useful_flops == 6 * TINY_OPT_WEIGHTS * profile.num_real_tokens


def test_encoding() -> None:
    profile = measure("profile.what=encode", "adapter=full")
    check_sums(profile)
    assert tuple(cost.part for cost in profile.cost.parts) == ENCODE_PARTS
    assert all(cost.seconds > 0 for cost in profile.cost.parts)
    flops = part_flops(profile)
    assert {part for part, number in flops.items() if number} == {Part.PREFIX, Part.TRUNK}
    assert profile.useful_flops == 2 * TINY_OPT_WEIGHTS * profile.num_real_tokens


def test_encoding_with_several_prompts_counts_the_tokens_of_all() -> None:
    one = measure("profile.what=encode", "adapter=full")
    more = r'prompt.more_templates=["In one word, \"{sentence}\" means:"]'
    several = measure("profile.what=encode", more)
    assert several.num_texts == one.num_texts
    assert several.num_real_tokens > 1.5 * one.num_real_tokens
    assert several.cost.flops > 1.5 * one.cost.flops


def test_recomputation_is_more_to_do_and_the_same_use() -> None:
    plain, packs, layers, both = (
        measure(f"trainer.activation_checkpointing={kind}")
        for kind in ("none", "packs", "layers", "all")
    )
    for profile in (packs, layers, both):
        assert profile.useful_flops == plain.useful_flops
        assert profile.num_trunk_tokens == plain.num_trunk_tokens
        flops, without = part_flops(profile), part_flops(plain)
        # Only recomputation comes on top.
        again = flops.pop(Part.RECOMPUTATION)
        assert without.pop(Part.RECOMPUTATION) == 0
        assert flops == without
        assert again > 0.5 * without[Part.TRUNK]
        seconds = {cost.part: cost.seconds for cost in profile.cost.parts}
        assert seconds[Part.RECOMPUTATION] > 0
    assert part_flops(both)[Part.RECOMPUTATION] > part_flops(packs)[Part.RECOMPUTATION]


def test_micro_batches_make_one_step() -> None:
    one, four = measure(), measure("trainer.accumulate_grad_batches=4")
    assert four.num_texts == one.num_texts
    flops = part_flops(four)
    # Four products of 2 anchors with 4 candidates, instead of one of 8 with 16.
    assert flops[Part.LOSS] == 4 * (2 * 2 * 4 * 32)
    assert flops[Part.PREFIX] > 2 * part_flops(one)[Part.PREFIX]
    check_sums(four)


def test_without_sharing_nothing_is_a_prefix() -> None:
    shared, plain = measure(), measure("trainer.share_prefix=false")
    costs = {cost.part: cost for cost in plain.cost.parts}
    assert (costs[Part.PREFIX].seconds, costs[Part.PREFIX].flops) == (0, 0)
    assert plain.num_real_tokens == shared.num_real_tokens
    assert plain.num_trunk_tokens > shared.num_trunk_tokens


def test_the_type_changes_the_ceiling_and_not_the_operations() -> None:
    one, mixed, true = (
        measure(f"trainer.precision={precision}")
        for precision in ("32-true", "bf16-mixed", "bf16-true")
    )
    assert part_flops(one) == part_flops(mixed) == part_flops(true)
    types = [profile.ceiling.dtype for profile in (one, mixed, true)]
    assert types == ["float32", "bfloat16", "bfloat16"]


@pytest.mark.parametrize(
    ("overrides", "device", "weights", "expected"),
    [
        (["trainer.precision=32-true"], "cuda", torch.bfloat16, torch.bfloat16),
        (["trainer.precision=16-mixed"], "cuda", torch.float32, torch.float16),
        (["trainer.precision=16-mixed"], "cpu", torch.float32, torch.bfloat16),
        (["trainer.precision=bf16-true", "profile.what=encode"], "cpu", torch.float16, None),
    ],
)
def test_the_type_of_the_matrix_products(
    overrides: list[str], device: str, weights: torch.dtype, expected: torch.dtype | None
) -> None:
    config = compose_profile(*overrides)
    assert compute_dtype(config, torch.device(device), weights) is (expected or weights)


def test_real_sentences(data_dir: Path) -> None:
    profile = measure("data=nli", f"data.path={data_dir}/nli/nli_triplets.csv")
    check_sums(profile)
    # The finished prompts of 8 anchors, positives and negatives.
    assert profile.num_texts == 24
    assert profile.num_real_tokens > 24 * 16


# --- The step is that of training ---------------------------------------------------------------


def test_a_profiled_step_trains_what_training_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise the adapter of `train.py` after one step, with dropout, clipping and schedule."""
    overrides = ("evaluation=none", "trainer.max_steps=1", "trainer.learning_rate=1e-2")
    config = tiny_config(tmp_path, *overrides)
    expected = load_file(train_tiny(tmp_path, *overrides).adapter / "adapter_model.safetensors")
    # In the order of the file, as the runner reads them.
    monkeypatch.setattr(train_step, "draw_examples", lambda data, number, *, seed: data.examples)
    data = load_training_data(config.data, seed=config.seed)
    encoder = load_encoder(config.model, config.prompt, tmp_path, device=CPU)
    run = partial(run_train_steps, config, data, encoder, Sections())
    run([Observer()])
    found = adapter_state(encoder.embedder.trunk)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert any("lora_B" in name and value.any() for name, value in found.items())


def test_all_steps_read_the_same_batch_while_the_loader_goes_on() -> None:
    config = compose_profile().to_train_config()
    data = load_training_data(config.data, seed=config.seed)
    encoder = load_encoder(
        config.model, config.prompt, Path(config.paths.cache_dir), device=resolve_device("cpu")
    )
    loader = train_step._build_loader(config, data, encoder, num_steps=4)
    prompt = build_prompt(config.prompt, training=True)
    steps = train_step._SameBatches(loader, 1, [Observer()] * 6, Sections())
    batches = list(steps)
    assert len(batches) == len(steps) == 6
    assert all(batch is batches[0] for batch in batches)
    # Seven batches were taken, from two epochs of four.
    assert loader.state_dict() == {"num_yielded": 7}
    known = {
        tuple(ids)
        for e in data.examples
        for ids in tokenize([e.anchor], tokenizer=encoder.tokenizer, prompt=prompt)
    }
    assert {tuple(ids) for ids in batches[0].token_ids[:8]} <= known


# --- The report ---------------------------------------------------------------------------------


def _profile(parts: tuple[PartCost, ...], timed: tuple[float, ...] = (1.0,)) -> Profile:
    return Profile(
        what="train",
        cost=StepCost(parts, timed, 0.5),
        ceiling=Ceiling("float32", (MatrixProduct(1, 2, 3, 1e9), MatrixProduct(2, 2, 2, 2e9))),
        num_texts=3,
        num_real_tokens=50,
        num_trunk_tokens=40,
        num_weights=10**7,
        useful_factor=4,
    )


def test_the_table_by_hand() -> None:
    profile = _profile(
        (
            PartCost(Part.TRUNK, 0.25, 3_000_000, 400_000_000),
            PartCost(Part.RECOMPUTATION, 0.0, None, 0),
            PartCost(Part.OTHER, 0.75, None, 0),
        )
    )
    console = Console(width=100)
    with console.capture() as capture:
        print_profile(console, profile)
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert "trunk, forward 0.2500 25.0% 3.0 MB 400 M 0.80" in lines
    assert "other 0.7500 75.0% - - -" in lines
    assert "step 1.0000 100.0% 3.0 MB 400 M 0.20" in lines
    assert "timed 1 step, 1.0000 to 1.0000 s; 0.5000 s of processor time" in lines
    assert "useful FLOP 2.00 G (4 x 10,000,000 weights x 50 tokens, no attention)" in lines
    assert "ceiling 2.00 GFLOP/s (float32, 2 x 2 x 2, best of 2)" in lines
    assert "executed / ceiling 0.20 (400 MFLOP/s, how busy the machine is)" in lines
    assert "useful / ceiling 1.00 (2.00 GFLOP/s, how much gets done)" in lines
    assert not any("computed again" in line for line in lines)
    assert to_plain(profile)["fraction_of_ceiling"] == {"executed": 0.2, "useful": 1.0}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00 X"),
        (9.994, "9.99 X"),
        (9.996, "10.0 X"),
        (99.96, "100 X"),
        (999.4, "999 X"),
        (999.6, "1.00 kX"),
        (97_123_456_789, "97.1 GX"),
        (1.5e15, "1.50 PX"),
        (2.5e19, "25000 PX"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert to_unit(value, "X") == text


def test_parts_are_medians_of_their_own() -> None:
    parts = [[1.0, 9.0, 2.0], [5.0, 1.0, 4.0]]
    costs = tuple(
        PartCost(part, statistics.median(values), None, 0)
        for part, values in zip((Part.TRUNK, Part.OTHER), parts, strict=True)
    )
    assert _profile(costs).cost.seconds == 6.0
    assert _profile(costs).cost.peak_bytes is None
