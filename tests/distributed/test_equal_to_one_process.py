"""Several processes that share a batch train what one process trains.

One launch of two processes runs all trainings here; each test looks at one of them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from ctypes.util import find_library
from pathlib import Path

import pytest
from rank_jobs import (
    EXACT,
    TWO_NEGATIVES,
    Job,
    Outcome,
    difference,
    run_jobs,
    write_two_negatives,
)
from tiny_runs import read_json, read_weights, train_tiny
from torch import Tensor

from embedllm.training.checkpoints import read_checkpoint

# Three steps of 8, 8 and 3 triplets: the last batch is smaller and odd.
_THREE_STEPS = (*EXACT, "data.max_examples=19", "trainer.max_steps=3")
_NO_STEP = ("trainer.max_steps=1", "trainer.learning_rate=1e-30")
# DeepSpeed leaves tensors of less than 1 MiB where they are.
_LARGE = (
    *_THREE_STEPS,
    "adapter=full",
    "trainer.learning_rate=0.05",
    "model.architecture.hidden_size=256",
    "model.architecture.word_embed_proj_dim=256",
    "model.architecture.ffn_dim=2304",
)
CASES: dict[str, tuple[str, ...]] = {
    "lora": _THREE_STEPS,
    "packs": (*_THREE_STEPS, "trainer.activation_checkpointing=packs", "data.tokens_per_pack=40"),
    "layers": (*_THREE_STEPS, "trainer.activation_checkpointing=layers"),
    "full": (*_THREE_STEPS, "adapter=full", "trainer.learning_rate=0.05"),
    "accumulated": (*_THREE_STEPS, "trainer.accumulate_grad_batches=2"),
    "clipped": (*_THREE_STEPS, "trainer.gradient_clip_norm=0.01"),
    "two negatives": (*_THREE_STEPS, *TWO_NEGATIVES),
    "nf4": (*_THREE_STEPS, "model.quantization=nf4"),
    "int8": (*_THREE_STEPS, "model.quantization=int8"),
}
OFFLOADED = ("deepspeed_zero2_offload", "deepspeed_zero3_offload")
# What no other case shows of a strategy; the rest is slow. ZeRO 1 and 2 differ in gradients alone.
ESSENTIAL = {
    "ddp": ("lora", "packs", "accumulated", "clipped", "two negatives"),
    "deepspeed_zero1": ("full", "two negatives"),
    "deepspeed_zero2": ("accumulated", "clipped", "two negatives", "nf4"),
    "deepspeed_zero3": ("packs", "full", "accumulated", "two negatives", "int8"),
    "fsdp2": ("packs", "layers", "clipped", "two negatives"),
    "deepspeed_zero2_offload": ("full",),
    "deepspeed_zero3_offload": ("lora",),
}
# Strategies that compute in 16 bits what DDP does. Where weights are in pieces the rows of a batch
# are computed in other portions and so rounded otherwise, by the 8 bits of bfloat16.
PRECISIONS = {"bfloat16": "model.dtype=bfloat16", "mixed": "trainer.precision=bf16-mixed"}
ROUNDED = (("deepspeed_zero2", "bfloat16"), ("deepspeed_zero3", "mixed"), ("fsdp2", "mixed"))
OTHERS_ROUNDED = (("deepspeed_zero2", "mixed"), ("deepspeed_zero3", "bfloat16"))
OTHERS_ROUNDED += (("fsdp2", "bfloat16"),)
_LAST = Path("checkpoints", "step-000003.ckpt")
MISTAKES = ("gather_without_gradient", "gather_nothing", "gather_in_wrong_order")


@pytest.fixture(scope="module")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An override with a file that has two hard negatives for each anchor."""
    return write_two_negatives(tmp_path_factory.mktemp("data") / "two.csv")


@pytest.fixture(scope="module")
def cases(triplets: str) -> Mapping[str, tuple[str, ...]]:
    return {
        name: (*case, triplets) if "data.source=path" in case else case
        for name, case in CASES.items()
    }


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, cases: Mapping[str, tuple[str, ...]]
) -> Mapping[str, Path]:
    """Adapters of one process, and what they started from."""
    root = tmp_path_factory.mktemp("alone")
    cases = {**cases, "start": (*_THREE_STEPS, *_NO_STEP)}
    cases["start of full"] = (*cases["start"], "adapter=full")
    return {name: train_tiny(root / name, *case).adapter for name, case in cases.items()}


def _difference(found: Mapping[str, Tensor], case: str, alone: Mapping[str, Path]) -> float:
    start = alone["start of full" if case == "full" else "start"]
    return difference(found, read_weights(alone[case]), start=read_weights(start))


def _cases_of(strategy: str, cases: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    """Leaves out what a strategy refuses, and for offloading what the same without it shows."""
    if strategy in OFFLOADED:
        return {name: cases[name] for name in ("lora", "full")}
    refused = {"deepspeed_zero3": ("layers",), "fsdp2": ("nf4", "int8")}.get(strategy, ())
    return {name: case for name, case in cases.items() if name not in refused}


def _jobs(cases: Mapping[str, tuple[str, ...]], *, essential: bool) -> list[Job]:
    return [
        Job(f"{strategy}-{name}", (*case, f"strategy={strategy}"))
        for strategy, names in ESSENTIAL.items()
        for name, case in _cases_of(strategy, cases).items()
        if (name in names) == essential
    ]


def _rounded(strategy: str, precision: str) -> Job:
    overrides = (*CASES["lora"], f"strategy={strategy}", PRECISIONS[precision])
    return Job(f"{strategy}-{precision}", overrides)


def _scaled(strategy: str) -> Job:
    # The scaler of the loss takes a gradient that is not finite for a scale that is too large.
    scaled = ("trainer.precision=16-mixed", "trainer.checkpoint_every_n_steps=1")
    overrides = (*CASES["lora"], *scaled, f"strategy={strategy}")
    return Job(f"{strategy}-scaled", overrides, poisoned=(1,))


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory, cases: Mapping[str, tuple[str, ...]]
) -> Mapping[str, Outcome]:
    """What two processes left of the essential trainings and of mistakes."""
    jobs = _jobs(cases, essential=True)
    wrong = (*cases["two negatives"], "strategy=ddp")
    jobs += [Job(mistake, wrong, mistake=mistake) for mistake in MISTAKES]
    jobs += [_rounded(*pair) for pair in (*(("ddp", name) for name in PRECISIONS), *ROUNDED)]
    jobs.append(_scaled("deepspeed_zero2"))
    return run_jobs(tmp_path_factory, "equal", jobs)


@pytest.fixture(scope="module")
def others_together(
    tmp_path_factory: pytest.TempPathFactory, cases: Mapping[str, tuple[str, ...]]
) -> Mapping[str, Outcome]:
    """What two processes left of all other trainings."""
    jobs = [*_jobs(cases, essential=False), *(_rounded(*pair) for pair in OTHERS_ROUNDED)]
    jobs.append(_scaled("deepspeed_zero3"))
    return run_jobs(tmp_path_factory, "equal-others", jobs)


@pytest.mark.parametrize(
    ("strategy", "case"), [(s, case) for s, names in ESSENTIAL.items() for case in names]
)
def test_two_processes_train_what_one_trains(
    strategy: str, case: str, alone: Mapping[str, Path], together: Mapping[str, Outcome]
) -> None:
    found = together[f"{strategy}-{case}"].weights
    assert _difference(found, case, alone) < 1e-5


@pytest.mark.parametrize(
    ("strategy", "case"),
    [
        ("deepspeed_zero3_offload", "lora"),
        *(
            pytest.param(strategy, case, marks=pytest.mark.slow)
            for strategy, case in [
                ("deepspeed_zero3", "lora"),
                ("deepspeed_zero3", "packs"),
                ("deepspeed_zero3_offload", "packs"),
            ]
        ),
    ],
)
def test_zero_3_on_one_process(
    strategy: str, case: str, alone: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = Job("alone", (*CASES[case], f"strategy={strategy}"))
    found = run_jobs(tmp_path_factory, f"one-{strategy}-{case}", [job], num_processes=1)["alone"]
    assert _difference(found.weights, case, alone) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "case"),
    [
        (s, case)
        for s, names in ESSENTIAL.items()
        for case in _cases_of(s, CASES)
        if case not in names
    ],
)
def test_two_processes_train_what_one_trains_in_all_other_ways(
    strategy: str, case: str, alone: Mapping[str, Path], others_together: Mapping[str, Outcome]
) -> None:
    found = others_together[f"{strategy}-{case}"].weights
    assert _difference(found, case, alone) < 1e-5


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """Trainings whose weights and states lie on a disk, and one of the same model without."""
    disk = tmp_path_factory.mktemp("disk")
    nvme = (
        "strategy=deepspeed_zero3_offload",
        "strategy.offload=nvme",
        f"strategy.nvme_path={disk}",
    )
    return run_jobs(
        tmp_path_factory,
        "nvme",
        [
            Job("ddp", (*_LARGE, "strategy=ddp")),
            Job("start", (*_LARGE, *_NO_STEP, "strategy=ddp")),
            Job("nvme", (*_LARGE, *nvme), disk=str(disk)),
            Job("stopped", (*_LARGE, *nvme, "trainer.checkpoint_every_n_steps=1"), die_at=2),
            Job("resumed", (*_LARGE, *nvme), folder="stopped"),
        ],
    )


@pytest.mark.slow
@pytest.mark.skipif(find_library("aio") is None, reason="libaio is not installed")
def test_weights_and_states_on_a_disk(on_disk: Mapping[str, Outcome]) -> None:
    # DeepSpeed compiles what reads and writes the disk when it is used for the first time.
    found, expected, start = (on_disk[name].weights for name in ("nvme", "ddp", "start"))
    assert difference(found, expected, start=start) < 1e-5
    for rank in range(2):
        sizes = read_json(on_disk["nvme"].folder / f"swapped-{rank}.json").values()
        # Halves of the gradients of four matrices; halves of all weights and of their two moments.
        assert sum(size >= 2**20 for size in sizes) >= 4 + 3


@pytest.mark.slow
@pytest.mark.skipif(find_library("aio") is None, reason="libaio is not installed")
def test_a_run_on_a_disk_does_not_go_on(on_disk: Mapping[str, Outcome]) -> None:
    errors = on_disk["resumed"].errors
    assert len(errors) == 2
    assert all("strategy.offload=nvme cannot go on" in error for error in errors)


@pytest.mark.parametrize(("strategy", "precision"), ROUNDED)
def test_16_bits_are_those_of_ddp(
    strategy: str, precision: str, alone: Mapping[str, Path], together: Mapping[str, Outcome]
) -> None:
    _check_rounded(together[f"{strategy}-{precision}"], precision, alone, together)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "precision"), OTHERS_ROUNDED)
def test_16_bits_are_those_of_ddp_with_other_strategies(
    strategy: str,
    precision: str,
    alone: Mapping[str, Path],
    together: Mapping[str, Outcome],
    others_together: Mapping[str, Outcome],
) -> None:
    _check_rounded(others_together[f"{strategy}-{precision}"], precision, alone, together)


def _check_rounded(
    found: Outcome, precision: str, alone: Mapping[str, Path], together: Mapping[str, Outcome]
) -> None:
    start = read_weights(alone["start"])
    expected = together[f"ddp-{precision}"].weights
    assert difference(found.weights, expected, start=start) < 2**-8
    # And of nobody who computes in 32.
    assert difference(found.weights, together["ddp-lora"].weights, start=start) > 1e-2


def test_float16_has_a_scale_for_the_loss(together: Mapping[str, Outcome]) -> None:
    _check_scale(together["deepspeed_zero2-scaled"])


@pytest.mark.slow
def test_float16_has_a_scale_for_the_loss_in_zero_3(others_together: Mapping[str, Outcome]) -> None:
    _check_scale(others_together["deepspeed_zero3-scaled"])


def _check_scale(found: Outcome) -> None:
    # Halved in the first step.
    assert read_checkpoint(found.run / _LAST)["ZeroPrecision"]["cur_scale"] == 2**15


@pytest.mark.parametrize("mistake", MISTAKES)
def test_common_mistakes_would_be_seen(
    mistake: str, alone: Mapping[str, Path], together: Mapping[str, Outcome]
) -> None:
    found = together[mistake].weights
    assert _difference(found, "two negatives", alone) > 1e-2


def test_a_factor_in_the_gradient_would_be_seen(tmp_path: Path, alone: Mapping[str, Path]) -> None:
    # Half the learning rate is half the gradient: what averaging once too often does.
    half = train_tiny(tmp_path, *CASES["lora"], "trainer.learning_rate=0.25").adapter
    assert _difference(read_weights(half), "lora", alone) > 1e-2


def test_negatives_come_from_all_processes(together: Mapping[str, Outcome]) -> None:
    [metrics] = sorted((together["ddp-lora"].run / "logs").glob("*/metrics.csv"))
    with metrics.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/negatives_per_anchor"]]
    # Batches of 8, 8 and 3 triplets: N - 1 other positives and N hard negatives.
    assert [float(row["train/negatives_per_anchor"]) for row in rows] == [15, 15, 5]
