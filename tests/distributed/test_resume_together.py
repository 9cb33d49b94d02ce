"""Several processes that stop and go on: the same run, another strategy, another number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from rank_jobs import EXACT, STRATEGIES, Job, Outcome, difference, run_jobs
from tiny_runs import read_weights, train_tiny
from torch import Tensor

# The usual Adam, whose state has to come back too; the last batch of an epoch is smaller.
_USUAL = tuple(o for o in EXACT if "epsilon" not in o and "learning_rate" not in o)
TEN_STEPS = (
    *_USUAL,
    "data.max_examples=38",
    "trainer.max_epochs=2",
    "trainer.max_steps=10",
    "trainer.checkpoint_every_n_steps=2",
)
# The same with its weights and the optimizer's state in host memory.
OFFLOADED = "deepspeed_zero3_offload"
# The optimizer has made no step yet when the first checkpoint is written, since it is left out.
NO_STATE = ("deepspeed_zero2", "deepspeed_zero3")
OTHER_WITHOUT_STATE = "fsdp2"
LEFT_OUT = (
    *_USUAL,
    "data.max_examples=24",
    "trainer.max_steps=3",
    "trainer.checkpoint_every_n_steps=1",
    "trainer.on_nan=skip",
)
# Strategies that go on with a run of DDP's: one that cuts the weights; the others are slow.
ADAPTED = "deepspeed_zero3"
OTHERS_ADAPTED = ("deepspeed_zero2", "fsdp2")
# ZeRO shards the same tensors as before; only sums over ranks may come in another order.
_SAME = 1e-6
# Adam divides by the root of small numbers, so rounding grows from step to step.
_OTHER = 2e-4


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of one process that was never stopped."""
    return train_tiny(tmp_path_factory.mktemp("alone"), *TEN_STEPS).adapter


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tensor]:
    """The adapter before any step."""
    stop = ("trainer.max_steps=1", "trainer.learning_rate=1e-30")
    root = tmp_path_factory.mktemp("start")
    return read_weights(train_tiny(root, *TEN_STEPS, *stop).adapter)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """What two processes left."""
    jobs = []
    for strategy in STRATEGIES:
        overrides = (*TEN_STEPS, f"strategy={strategy}")
        jobs += [
            Job(f"{strategy} whole", overrides),
            Job(f"{strategy} first half", overrides, folder=strategy, die_at=7),
            Job(f"{strategy} second half", overrides, folder=strategy),
        ]
    jobs += _adapted(ADAPTED)
    overrides = (*TEN_STEPS, f"strategy={OFFLOADED}")
    jobs += [
        Job(f"{OFFLOADED} first half", overrides, folder=OFFLOADED, die_at=7),
        Job(f"{OFFLOADED} second half", overrides, folder=OFFLOADED),
    ]
    jobs.append(Job("half", (*TEN_STEPS, "strategy=deepspeed_zero3"), die_at=7))
    jobs += [job for strategy in NO_STATE for job in _left_out(strategy)]
    return run_jobs(tmp_path_factory, "resume", jobs)


@pytest.fixture(scope="module")
def others_together(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """What they left of the slow tests."""
    jobs = [job for strategy in OTHERS_ADAPTED for job in _adapted(strategy)]
    return run_jobs(tmp_path_factory, "resume-others", [*jobs, *_left_out(OTHER_WITHOUT_STATE)])


def _left_out(strategy: str) -> list[Job]:
    """Stopped before the optimizer has made a step."""
    overrides, folder = (*LEFT_OUT, f"strategy={strategy}"), f"{strategy} left out"
    return [
        Job(f"{strategy} left out whole", overrides, poisoned=(1,)),
        Job(f"{strategy} left out", overrides, folder=folder, poisoned=(1,), die_at=1),
        Job(f"{strategy} after it", overrides, folder=folder),
    ]


def _adapted(strategy: str) -> list[Job]:
    """Started as DDP."""
    folder = f"{strategy} from ddp"
    overrides = (*TEN_STEPS, f"strategy={strategy}")
    return [
        Job(f"{folder}, first half", (*TEN_STEPS, "strategy=ddp"), folder=folder, die_at=5),
        Job(f"{strategy} unasked", overrides, folder=folder),
        Job(folder, (*overrides, "resume=adapt"), folder=folder),
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_is_the_uninterrupted_one(
    strategy: str, start: Mapping[str, Tensor], together: Mapping[str, Outcome]
) -> None:
    resumed = together[f"{strategy} second half"]
    whole = together[f"{strategy} whole"].weights
    assert difference(resumed.weights, whole, start=start) < _SAME


def test_a_run_in_host_memory_goes_on(
    start: Mapping[str, Tensor], together: Mapping[str, Outcome]
) -> None:
    whole = together["deepspeed_zero3 whole"].weights
    resumed = together[f"{OFFLOADED} second half"].weights
    assert difference(resumed, whole, start=start) < _SAME


@pytest.mark.parametrize("strategy", NO_STATE)
def test_a_run_goes_on_from_before_its_first_step(
    strategy: str, start: Mapping[str, Tensor], together: Mapping[str, Outcome]
) -> None:
    _check_left_out(strategy, start, together)


@pytest.mark.slow
def test_fsdp_goes_on_from_before_its_first_step(
    start: Mapping[str, Tensor], others_together: Mapping[str, Outcome]
) -> None:
    _check_left_out(OTHER_WITHOUT_STATE, start, others_together)


def _check_left_out(
    strategy: str, start: Mapping[str, Tensor], together: Mapping[str, Outcome]
) -> None:
    whole = together[f"{strategy} left out whole"].weights
    resumed = together[f"{strategy} after it"].weights
    assert difference(resumed, whole, start=start) < _SAME


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ten_steps_with_adam_are_those_of_one_process(
    strategy: str,
    alone: Path,
    start: Mapping[str, Tensor],
    together: Mapping[str, Outcome],
) -> None:
    found = together[f"{strategy} whole"].weights
    assert difference(found, read_weights(alone), start=start) < _OTHER


def test_a_run_goes_on_with_another_strategy(
    alone: Path, start: Mapping[str, Tensor], together: Mapping[str, Outcome]
) -> None:
    _check_adapted(ADAPTED, alone, start, together)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", OTHERS_ADAPTED)
def test_a_run_goes_on_with_one_more_strategy(
    strategy: str,
    alone: Path,
    start: Mapping[str, Tensor],
    others_together: Mapping[str, Outcome],
) -> None:
    _check_adapted(strategy, alone, start, others_together)


def _check_adapted(
    strategy: str, alone: Path, start: Mapping[str, Tensor], together: Mapping[str, Outcome]
) -> None:
    found = together[f"{strategy} from ddp"].weights
    assert difference(found, read_weights(alone), start=start) < _OTHER
    errors = together[f"{strategy} unasked"].errors
    assert len(errors) == 2
    assert all("resume=adapt" in error and "strategy=ddp on 2" in error for error in errors)


def test_one_process_goes_on_where_two_stopped(
    alone: Path, start: Mapping[str, Tensor], together: Mapping[str, Outcome]
) -> None:
    folder = together["half"].folder
    found = train_tiny(folder, *TEN_STEPS, "resume=adapt").adapter
    assert difference(read_weights(found), read_weights(alone), start=start) < _OTHER


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3"])
def test_new_processes_go_on_where_one_was_killed(
    strategy: str,
    tmp_path_factory: pytest.TempPathFactory,
    start: Mapping[str, Tensor],
    together: Mapping[str, Outcome],
) -> None:
    overrides = (*TEN_STEPS, f"strategy={strategy}")
    job = Job("killed", overrides, killed_at=7)
    folder = run_jobs(tmp_path_factory, f"killed {strategy}", [job])["killed"].folder
    assert not (folder / "run" / "adapter").exists()
    job = Job("resumed", overrides, folder=str(folder))
    resumed = run_jobs(tmp_path_factory, f"after {strategy}", [job])["resumed"].weights
    assert difference(resumed, together[f"{strategy} whole"].weights, start=start) < _SAME
