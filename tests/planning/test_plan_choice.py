"""Which ways there are, in which order, what fits at the border, and what training is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan_configs import GIB, OFFLOADED, ZERO, compose_plan, gpu
from tiny_runs import compose_train

from embedllm.config import PlanOptionsConfig, StrategyConfig, TrainConfig
from embedllm.errors import ConfigError
from embedllm.planning.answers import build_planner, choose_strategy, estimate_training, plan
from embedllm.planning.hardware import Hardware
from embedllm.planning.planner import Planner
from embedllm.planning.ways import CHOICES, Way, list_ways, why_not
from embedllm.planning.workload import (
    PackShape,
    assume_lengths,
    assume_workload,
    read_batch,
    read_workload,
)

AUTO = ("strategy=auto",)
PACKS = "trainer.activation_checkpointing=packs"


def tiny(*overrides: str) -> TrainConfig:
    return compose_train("debug=tiny", *AUTO, *overrides)


def titles(ways: list[Way]) -> list[str]:
    return list(dict.fromkeys(way.strategy.title for way in ways))


def offloads(way: Way) -> bool:
    return way.strategy.offload != "none"


def test_ways_of_one_gpu() -> None:
    ways = list_ways(tiny(), kind="cuda", world_size=1)
    assert titles(ways) == ["single", "deepspeed_zero2_offload", "deepspeed_zero3_offload"]
    assert [str(way) for way in ways[:5]] == [
        "strategy=single",
        "strategy=single trainer.activation_checkpointing=packs",
        "strategy=single trainer.activation_checkpointing=layers",
        "strategy=single trainer.activation_checkpointing=all",
        "strategy=single model.quantization=nf4",
    ]


def test_ways_of_several_gpus() -> None:
    ways = list_ways(tiny("trainer.devices=4"), kind="cuda", world_size=4)
    order = ["ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"]
    assert titles(ways)[:5] == order
    # Whole weights before pieces, and of both 16 bits before NF4 before 8 bits.
    kinds = [(w.strategy.shards_weights, w.quantization) for w in ways if not offloads(w)]
    order = ["none", "nf4", "int8"]
    assert list(dict.fromkeys(kinds)) == [(cut, q) for cut in (False, True) for q in order]
    assert offloads(ways[-1])
    assert [offloads(way) for way in ways] == sorted(offloads(way) for way in ways)
    assert {w.quantization for w in ways if w.strategy.name == "fsdp2"} == {"none"}
    assert {w.quantization for w in ways if w.strategy == ZERO[3]} == set(order)


def test_equally_fast_ways_are_ranked_by_simplicity_and_host_memory_is_last() -> None:
    plain, packs = (Way(StrategyConfig("ddp"), "none", c) for c in ("none", "packs"))
    nf4, pieces = Way(StrategyConfig("ddp"), "nf4", "none"), Way(ZERO[3], "none", "none")
    offloaded = Way(OFFLOADED[2], "none", "none")
    seconds = [(packs, 1.5), (offloaded, 0.5), (nf4, 1.01), (pieces, 1.0), (plain, 1.0)]
    ranked = [way for way, _ in sorted(seconds, key=lambda pair: pair[0].rank(pair[1]))]
    assert ranked == [plain, nf4, pieces, packs, offloaded]
    assert sorted(ranked, key=lambda way: way.rank(None))[:2] == [plain, packs]


def test_a_cpu_offloads_nothing_and_full_training_quantises_nothing() -> None:
    ways = list_ways(tiny("adapter=full"), kind="cpu", world_size=2)
    assert {way.quantization for way in ways} == {"none"}
    assert {way.strategy.offload for way in ways} == {"none"}


def test_what_is_fixed_stays() -> None:
    config = compose_train(
        "debug=tiny", "strategy=deepspeed_zero2", "trainer.devices=2", "model.quantization=nf4"
    )
    [way] = list_ways(config, kind="cuda", world_size=2, fixed=CHOICES)
    assert str(way) == "strategy=deepspeed_zero2 model.quantization=nf4"
    assert len(list_ways(config, kind="cuda", world_size=2, fixed={"quantization"})) == 4


@pytest.mark.parametrize(
    ("strategy", "quantization", "kind", "reason"),
    [
        (StrategyConfig("single"), "none", "cuda", "one process, not 2"),
        (StrategyConfig("fsdp2"), "int8", "cuda", "strategy=fsdp2 cuts weights apart"),
        (OFFLOADED[2], "none", "cpu", "nowhere to offload to on a CPU"),
    ],
)
def test_what_does_not_go_together(
    strategy: StrategyConfig, quantization: str, kind: str, reason: str
) -> None:
    config = tiny("trainer.devices=2")
    way = Way(strategy, quantization, "none")
    found = why_not(way, config, kind=kind, world_size=2)
    assert found is not None
    assert reason in found
    plain = Way(StrategyConfig("ddp"), quantization, "none")
    assert why_not(plain, config, kind=kind, world_size=2) is None


def test_what_training_refuses_is_no_way() -> None:
    config = tiny("adapter=full")
    found = why_not(Way(StrategyConfig("single"), "nf4", "none"), config, kind="cuda", world_size=1)
    assert found is not None
    assert "cannot train the weights" in found


def test_no_way_at_all() -> None:
    config = compose_train("debug=tiny", "strategy=deepspeed_zero3_offload")
    with pytest.raises(ConfigError, match=r"there is no way to train: .*nowhere to offload to"):
        list_ways(config, kind="cpu", world_size=1)


def border(planner: Planner, way: Way) -> Hardware:
    """Returns hardware that this way fills to the last byte."""
    return replace(planner.hardware, memory=planner.memory(way).total)


@pytest.fixture(scope="module")
def planner() -> Planner:
    config = tiny("data.global_batch_size=32", "data.tokens_per_pack=256")
    lengths = assume_lengths(config.prompt, PlanOptionsConfig())
    work = assume_workload(config, lengths, kind="cuda", world_size=1)
    return Planner(config, gpu(), work)


def test_planners_of_one_training_share_its_model(planner: Planner) -> None:
    def other(*overrides: str) -> Planner:
        return Planner(tiny(*overrides), gpu(10), planner.workload)

    assert other("trainer.devices=4", "seed=1").model is planner.model
    for change in ("trainer.precision=bf16-mixed", "adapter=full", "model.dtype=float16"):
        assert other(change).model is not planner.model


def test_the_border_of_what_fits(planner: Planner) -> None:
    way = Way(StrategyConfig("single"), "none", "packs")
    exact = border(planner, way)
    for more, fits in ((0, True), (-1, False)):
        hardware = replace(exact, memory=exact.memory + more)
        other = Planner(planner.config, hardware, planner.workload)
        assert other.candidate(way).fits is fits


def test_the_host_can_be_too_small_as_well(planner: Planner) -> None:
    way = Way(OFFLOADED[2], "none", "none")
    small = Planner(planner.config, gpu(host_memory=2**30), planner.workload)
    assert "too much for the host" in small.candidate(way).problem


def test_the_host_holds_a_checkpoint_of_the_first_process(planner: Planner) -> None:
    parts = planner.model.inventory
    loading = parts.outside.bytes + parts.layer.bytes
    found = planner.candidate(Way(StrategyConfig("single"), "none", "none")).host_memory
    # Weights and two moments, in float32.
    assert found == 3 * GIB + loading + 12 * parts.trainable.number


def test_the_largest_pack_and_batch_are_at_the_border(planner: Planner) -> None:
    way = Way(StrategyConfig("single"), "none", "none")
    room = replace(planner.hardware, memory=2 * planner.memory(way).total)
    other = Planner(planner.config, room, planner.workload)
    candidate = other.candidate(way)
    largest = other.largest_batch(candidate)
    now = planner.config.data.global_batch_size
    assert largest > now
    fits = other.memory(way, planner.workload.resized(factor=largest / now)).total
    too_many = other.memory(way, planner.workload.resized(factor=1.1 * largest / now)).total
    assert fits <= room.usable < too_many
    everything = sum(pack.tokens for pack in planner.workload.packs)
    assert planner.workload.pack_tokens <= other.largest_pack(candidate) <= everything


def test_states_are_recomputed_before_the_model_is_spread(planner: Planner) -> None:
    packs = Way(StrategyConfig("single"), "none", "packs")
    choice = choose_strategy(planner.config, border(planner, packs), workload=planner.workload)
    assert choice.strategy.title == "single"
    assert choice.trainer.activation_checkpointing == "packs"
    assert choice.candidate.memory == planner.memory(packs)


def test_small_packs_where_usual_ones_do_not_fit() -> None:
    config = tiny("data.global_batch_size=512", PACKS, "data.tokens_per_pack=null")
    lengths = assume_lengths(config.prompt, PlanOptionsConfig())
    work = assume_workload(config, lengths, kind="cuda", world_size=1)
    assert work.pack_tokens > 15_000
    whole = Planner(config, gpu(), work)
    way = Way(StrategyConfig("single"), "none", "packs")
    small = whole.memory(way, work.resized(pack_tokens=1024)).total
    usual = whole.memory(way).total
    choice = choose_strategy(config, gpu(memory_gib=(small + usual) / 2 / GIB), workload=work)
    assert choice.strategy.title == "single"
    assert choice.trainer.activation_checkpointing == "packs"
    assert choice.tokens_per_pack is not None
    assert 1024 < choice.tokens_per_pack < work.pack_tokens
    largest = work.resized(pack_tokens=choice.tokens_per_pack)
    assert 0.9 * (small + usual) / 2 < whole.memory(way, largest).total <= (small + usual) / 2
    assert choose_strategy(config, gpu(), workload=work).tokens_per_pack is None


def test_checkpointing_is_never_less_than_configured() -> None:
    config = tiny("trainer.activation_checkpointing=layers")
    choice = choose_strategy(config, gpu())
    assert choice.trainer.activation_checkpointing == "layers"
    assert choose_strategy(tiny(), gpu()).trainer.activation_checkpointing == "none"


def test_nothing_fits() -> None:
    with pytest.raises(ConfigError, match=r"does not fit 1 x round-gpu in any way; the nearest"):
        choose_strategy(tiny(), gpu(memory_gib=0.0001))


def test_what_a_configured_training_takes() -> None:
    config = compose_train("debug=tiny", "trainer.activation_checkpointing=packs")
    candidate = estimate_training(config, gpu(kind="cpu"))
    assert str(candidate.way) == "strategy=single trainer.activation_checkpointing=packs"
    assert candidate.fits
    with pytest.raises(ConfigError, match="adapter=full cannot train the weights"):
        estimate_training(
            compose_train("debug=tiny", "adapter=full", "model.quantization=nf4"), gpu()
        )


def test_a_plan_recommends_the_first_that_fits() -> None:
    config = compose_plan("model=opt-6.7b", "hardware=a100-40gb", "trainer.devices=2", PACKS)
    made = plan(config, fixed=CHOICES, arguments=["model=opt-6.7b", "trainer=gpu"])
    assert made.recommended is next(c for c in made.candidates if c.fits)
    assert made.recommended.way.strategy.title == "ddp"
    assert made.recommended.way.quantization == "none"
    assert made.command.startswith("python train.py model=opt-6.7b trainer=gpu strategy=ddp")
    assert made.command.endswith("trainer.devices=2")
    assert all(
        c.fits == (c.memory.total <= made.hardware.usable) for c in made.candidates if c.fits
    )
    ranks = [c.way.rank(c.time.total if c.time else None) for c in made.candidates]
    assert ranks == sorted(ranks)


def test_a_model_too_large_for_16_bits_is_quantised() -> None:
    config = compose_plan("model=opt-13b", "hardware=rtx-4090-24gb", PACKS)
    made = plan(config, fixed={"checkpointing"})
    assert made.recommended is not None
    assert made.recommended.way.quantization == "nf4"
    assert made.recommended.way.strategy.title == "single"


def test_what_is_fastest_depends_on_the_link() -> None:
    """24 GB hold no 13 billion weights of 16 bits: they are rounded, or gathered all the time."""
    for link, strategy, quantization in (("32", "ddp", "nf4"), ("3000", "fsdp2", "none")):
        config = compose_plan(
            "model=opt-13b",
            "hardware=rtx-4090-24gb",
            "trainer.devices=8",
            "data.global_batch_size=32",
            "trainer.activation_checkpointing=layers",
            f"hardware.link_gb_per_second={link}",
        )
        made = plan(config, fixed={"checkpointing"})
        assert made.recommended is not None
        assert made.recommended.way.strategy.title == strategy
        assert made.recommended.way.quantization == quantization
        others = [c for c in made.candidates if c.fits and not offloads(c.way)]
        assert made.recommended.time is not None
        for other in others:
            assert other.time is not None
            assert made.recommended.time.total < 1.06 * other.time.total


def test_a_plan_that_fits_nowhere_says_what_is_nearest() -> None:
    config = compose_plan("model=tiny", "hardware=a10-24gb", "hardware.memory_gib=0.1")
    made = plan(config)
    assert made.recommended is None
    assert made.command == ""
    assert made.nearest.memory.total == min(c.memory.total for c in made.candidates)


def test_several_processes_share_the_texts() -> None:
    one = build_planner(compose_plan("model=tiny", "hardware=a100-80gb")).workload
    four = build_planner(
        compose_plan("model=tiny", "hardware=a100-80gb", "trainer.devices=4")
    ).workload
    assert four.num_texts == one.num_texts // 4
    assert four.num_anchors == one.num_anchors // 4
    assert four.num_candidates == one.num_candidates


def test_assumed_packs() -> None:
    config = tiny("data.global_batch_size=10", "data.tokens_per_pack=100")
    lengths = assume_lengths(config.prompt, PlanOptionsConfig(sentence_tokens=12))
    # BOS, This, sentence, :, " in front; " means in one word :" behind.
    assert (lengths.prefix, lengths.rest) == (5, 12 + 6)
    work = assume_workload(config, lengths, kind="cpu", world_size=1)
    assert work.packs == (PackShape(5, 18, 5),) * 6
    assert work.prefix_tokens == 5
    assert work.trunk_tokens == 5 + 30 * 18
    assert work.text_tokens == 30 * 23
    unshared = assume_workload(
        tiny("trainer.share_prefix=false", "data.tokens_per_pack=100"),
        lengths,
        kind="cpu",
        world_size=1,
    )
    assert (unshared.prefix_tokens, unshared.packs[0].width) == (0, 23)


def test_packs_of_real_texts() -> None:
    config = tiny("data.global_batch_size=16", "data.tokens_per_pack=200")
    batch = read_batch(config)
    work = read_workload(config, batch, kind="cpu", world_size=1)
    assert work.num_texts == len(batch.token_ids) == 48
    assert work.text_tokens == batch.num_tokens
    assert sum(pack.num_texts for pack in work.packs) == 48
    assert all(pack.tokens <= 200 for pack in work.packs)
    assert not work.is_assumed
    half = read_workload(config, batch, kind="cpu", world_size=2)
    assert 0 < half.num_texts < 48


def test_work_without_a_prefix() -> None:
    config = tiny("data.global_batch_size=16", "data.tokens_per_pack=200")
    work = read_workload(config, read_batch(config), kind="cpu", world_size=1)
    alone = work.without_prefix()
    assert work.prefix_tokens > 0
    assert alone.prefix_tokens == 0
    # Once for a bin of a trie instead of once for all.
    bins = sum(pack.rows for pack in work.packs)
    assert all(pack.num_ends for pack in work.packs)
    assert alone.trunk_tokens == work.trunk_tokens + (bins - 1) * work.prefix_tokens
    assert alone.one_pack().packs == alone.packs[:1]


def test_resized_work() -> None:
    config = tiny("data.global_batch_size=16", "data.tokens_per_pack=200")
    work = read_workload(config, read_batch(config), kind="cpu", world_size=1)
    twice = work.resized(factor=2)
    assert twice.num_texts == 2 * work.num_texts
    assert sum(p.rows for p in twice.packs) == 2 * sum(p.rows for p in work.packs)
    wide = work.resized(pack_tokens=400)
    assert work.pack_tokens < wide.pack_tokens <= 400
    assert len(wide.packs) < len(work.packs)
