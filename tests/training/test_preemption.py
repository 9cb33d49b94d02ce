"""A training that is asked to stop, by SIGTERM or SIGUSR1, goes on to the same adapter."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from interrupted_runs import WITH_DEV_SCORES, Ask, asked_at
from tiny_runs import (
    TWENTY_STEPS,
    extra_callback,
    have_equal_weights,
    train_tiny,
)

from embedllm.errors import PreemptedError
from embedllm.preemption import SIGNALS, requested, stop_requests
from embedllm.training.callbacks.dev_score import DevScore

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")

# Resume points come from being asked alone.
_NO_OTHERS = ("trainer.checkpoint_every_n_steps=1000",)


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("accumulate", [1, 2])
def test_asked_again_and_again(
    accumulate: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (
        *TWENTY_STEPS,
        *_NO_OTHERS,
        f"trainer.accumulate_grad_batches={accumulate}",
        "data.global_batch_size=8",
    )
    positions = []
    # The first of two micro-batches, the last step of the first epoch, a step of the second.
    for number, steps in ((signal.SIGUSR1, 3), (signal.SIGTERM, 7), (signal.SIGUSR1, 5)):
        batches = (steps - 1) * accumulate + 1
        with asked_at(batches, number) as caught:
            train_tiny(tmp_path, *overrides)
        positions.append(str(caught.value))
    assert positions == [
        "stopped by SIGUSR1 after step 3 of 20",
        "stopped by SIGTERM after step 10 of 20",
        "stopped by SIGUSR1 after step 15 of 20",
    ]
    # As many are kept as without signals.
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["step-000010.ckpt", "step-000015.ckpt"]
    adapter = train_tiny(tmp_path, *overrides).adapter
    assert have_equal_weights(adapter, uninterrupted(*overrides) / "adapter")


def test_asked_in_the_last_step(tmp_path: Path) -> None:
    with asked_at(20, signal.SIGTERM) as caught:
        train_tiny(tmp_path, *TWENTY_STEPS)
    assert str(caught.value) == "stopped by SIGTERM"
    # Nothing was left to do but the score.
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()


def test_asked_while_the_dev_task_is_scored(
    tmp_path: Path, uninterrupted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*WITH_DEV_SCORES, *_NO_OTHERS)
    score = DevScore._score

    def asked(self: DevScore, step: int, total: int) -> float:
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, step, total)

    with monkeypatch.context() as patch, stop_requests():
        patch.setattr(DevScore, "_score", asked)
        with pytest.raises(PreemptedError, match="after step 10 of 20"):
            train_tiny(tmp_path, *overrides)
    adapter = train_tiny(tmp_path, *overrides).adapter
    assert have_equal_weights(adapter, uninterrupted(*overrides) / "adapter")


@pytest.mark.parametrize("where", ["load_encoder", "score_and_record", "load_adapted_encoder"])
def test_asked_outside_of_the_training(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any, **__: Any) -> None:
        # What reads files turns every error into one of its own.
        with suppress(Exception):
            os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("it went on")

    overrides = ("trainer.max_steps=2", "evaluation.dev_every_n_steps=2")
    with monkeypatch.context() as patch, stop_requests():
        patch.setattr(f"embedllm.training.runner.{where}", ask)
        with pytest.raises(PreemptedError, match="stopped by SIGUSR1"):
            train_tiny(tmp_path, *overrides)
    result = train_tiny(tmp_path, *overrides)
    assert result.before is not None
    assert result.after is not None


def test_who_calls_from_python_keeps_its_handlers(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with extra_callback(Ask(signal.SIGTERM, at_batch=2)):
            train_tiny(tmp_path, "evaluation=none", "trainer.max_steps=3")
    finally:
        signal.signal(signal.SIGTERM, before)
    # Lightning would have ended the training.
    assert set(seen) == {signal.SIGTERM}
    assert requested() is None
