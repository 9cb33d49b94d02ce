"""A gradient that is NaN on one rank: all ranks leave out the step, or all stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from poisoned_steps import poisoned_gradients
from rank_jobs import EXACT, Job, Outcome, difference, run_jobs
from tiny_runs import read_json, read_weights, train_tiny

_SIX_STEPS = (*EXACT, "data.max_examples=48", "trainer.max_steps=6", "trainer.on_nan=skip")
CASES = {
    "plain": _SIX_STEPS,
    "accumulated": (*_SIX_STEPS, "trainer.accumulate_grad_batches=2"),
}
POISONED = (3, 6)
# Of strategies that do alike, one: starting a training costs more than its steps.
ACCUMULATED = ("ddp", "deepspeed_zero2")
STOPPED = ("ddp", "deepspeed_zero3")
PLAIN = ("ddp", "deepspeed_zero3", "fsdp2")
LEFT_OUT = [*((s, "plain") for s in PLAIN), *((s, "accumulated") for s in ACCUMULATED)]
OTHERS = [("deepspeed_zero1", "plain"), ("deepspeed_zero2", "plain")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Adapters of one process with the same two steps left out, and without any left out."""
    root = tmp_path_factory.mktemp("alone")
    stop = ("trainer.max_steps=1", "trainer.learning_rate=1e-30")
    found = {"start": train_tiny(root / "start", *_SIX_STEPS, *stop).adapter}
    found["all steps"] = train_tiny(root / "all", *_SIX_STEPS).adapter
    for name, case in CASES.items():
        with poisoned_gradients(*POISONED):
            found[name] = train_tiny(root / name, *case).adapter
    return found


def _job(strategy: str, case: str) -> Job:
    overrides = (*CASES[case], f"strategy={strategy}")
    return Job(f"{strategy}-{case}", overrides, poisoned=POISONED)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """What two processes left."""
    jobs = [_job(*pair) for pair in LEFT_OUT]
    for strategy in STOPPED:
        stop = (*_SIX_STEPS, f"strategy={strategy}", "trainer.on_nan=stop")
        jobs.append(Job(f"{strategy}-stop", stop, poisoned=POISONED))
    return run_jobs(tmp_path_factory, "nonfinite", jobs)


@pytest.fixture(scope="module")
def others_together(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """What they left of the strategies that are slow tests."""
    return run_jobs(tmp_path_factory, "nonfinite-others", [_job(*pair) for pair in OTHERS])


@pytest.mark.parametrize(("strategy", "case"), LEFT_OUT)
def test_all_ranks_leave_out_the_step(
    strategy: str, case: str, alone: Mapping[str, Path], together: Mapping[str, Outcome]
) -> None:
    _check_left_out(together[f"{strategy}-{case}"], case, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "case"), OTHERS)
def test_all_ranks_leave_out_the_step_with_other_strategies(
    strategy: str,
    case: str,
    alone: Mapping[str, Path],
    others_together: Mapping[str, Outcome],
) -> None:
    _check_left_out(others_together[f"{strategy}-{case}"], case, alone)


def _check_left_out(outcome: Outcome, case: str, alone: Mapping[str, Path]) -> None:
    start = read_weights(alone["start"])
    assert difference(outcome.weights, read_weights(alone[case]), start=start) < 1e-5
    # The step would be seen, were it made.
    whole = read_weights(alone["all steps"])
    assert difference(outcome.weights, whole, start=start) > 1e-2
    kept = sorted(path.name for path in (outcome.run / "nonfinite").iterdir())
    assert kept == ["step-000003.json", "step-000006.json"]
    batches = read_json(outcome.run / "nonfinite" / kept[0])["micro_batches"]
    assert [len(batch["examples"]) for batch in batches] == ([8] if case == "plain" else [4, 4])


@pytest.mark.parametrize("strategy", STOPPED)
def test_all_ranks_stop(strategy: str, together: Mapping[str, Outcome]) -> None:
    outcome = together[f"{strategy}-stop"]
    assert len(outcome.errors) == 2
    assert all("the gradient of step 3 is NaN or infinite" in error for error in outcome.errors)
    assert not (outcome.folder / "run" / "adapter").exists()
