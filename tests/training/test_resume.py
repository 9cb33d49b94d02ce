"""A run that was interrupted anywhere and resumed gives what the uninterrupted run gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interrupted_runs import NUM_STEPS, STEPS_PER_EPOCH, WITH_DEV_SCORES, dying_at
from tiny_runs import TWENTY_STEPS, have_equal_weights, read_json, read_weights, train_tiny

from embedllm.training.callbacks.dev_score import DevScore
from embedllm.training.checkpoints import newest_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")


def test_the_same_seed_gives_the_same_file(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    result = train_tiny(tmp_path, *TWENTY_STEPS)
    name = "adapter_model.safetensors"
    expected = uninterrupted(*TWENTY_STEPS) / "adapter" / name
    assert (result.adapter / name).read_bytes() == expected.read_bytes()


def test_another_seed_gives_another_adapter(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    result = train_tiny(tmp_path, *TWENTY_STEPS, "seed=43")
    assert not have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def test_every_step_shows_in_the_adapter(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    # Else the comparisons below would compare nothing: one step less, another adapter.
    overrides = [
        *TWENTY_STEPS[:-1],
        "trainer.max_steps=19",
        "trainer.lr_schedule=constant_with_warmup",
    ]
    nineteen = train_tiny(tmp_path / "a", *overrides).adapter
    twenty = train_tiny(
        tmp_path / "b", *overrides[:-2], "trainer.max_steps=20", overrides[-1]
    ).adapter
    first, second = read_weights(nineteen), read_weights(twenty)
    assert all(not torch.equal(first[n], second[n]) for n in first)


# --- Interrupted in this process ---------------------------------------------------------------


_ANY_STEP = [
    # The borders of an epoch, and each distance between checkpoints; the others are slow.
    step
    if step in (3, STEPS_PER_EPOCH, NUM_STEPS - 1)
    else pytest.param(step, marks=pytest.mark.slow)
    for step in range(1, NUM_STEPS)
]


@pytest.mark.parametrize("step", _ANY_STEP)
def test_killed_after_any_step(
    step: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    # Sparse checkpoints make the resumed run repeat steps that the dead one had done.
    every = (1, 3, 7)[step % 3]
    overrides = (*TWENTY_STEPS, f"trainer.checkpoint_every_n_steps={every}")
    with dying_at(step):
        train_tiny(tmp_path, *overrides)
    assert not (tmp_path / "run" / "adapter").exists()
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    expected_step = step // every * every
    assert (newest is None) == (expected_step == 0)
    assert newest is None or newest.name == f"step-{expected_step:06d}.ckpt"
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


@pytest.mark.parametrize("step", [STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, NUM_STEPS])
def test_killed_before_the_checkpoint_of_a_step(
    step: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*TWENTY_STEPS, "trainer.checkpoint_every_n_steps=1")
    with dying_at(step, before_hooks=True):
        train_tiny(tmp_path, *overrides)
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def test_killed_many_times(tmp_path: Path, uninterrupted: Callable[..., Path]) -> None:
    overrides = (*TWENTY_STEPS, "trainer.checkpoint_every_n_steps=2")
    for step in (3, 10, 11, NUM_STEPS):
        with dying_at(step):
            train_tiny(tmp_path, *overrides)
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


@pytest.mark.parametrize(
    ("change", "step"),
    [
        *(("trainer.accumulate_grad_batches=2", step) for step in (1, 19)),
        ("adapter=full", 13),
        ("data.drop_last=true", 9),
        ("trainer.precision=bf16-mixed", 10),
        *(
            pytest.param(change, 10, marks=pytest.mark.slow)
            for change in (
                "trainer.accumulate_grad_batches=2",
                "adapter=full",
                "data.drop_last=true",
            )
        ),
    ],
)
def test_killed_with_other_settings(
    change: str, step: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*TWENTY_STEPS, change)
    if change == "adapter=full":
        overrides = (*overrides, "trainer.learning_rate=1e-4")
    if "drop_last" in change:
        # Nine batches an epoch.
        overrides = (*overrides, "trainer.max_epochs=3")
    expected = uninterrupted(*overrides) / "adapter"
    with dying_at(step):
        train_tiny(tmp_path, *overrides, "trainer.checkpoint_every_n_steps=1")
    result = train_tiny(tmp_path, *overrides, "trainer.checkpoint_every_n_steps=1")
    assert have_equal_weights(result.adapter, expected)


@pytest.mark.usefixtures("rising_scores")
@pytest.mark.parametrize(
    ("step", "before_hooks"),
    [
        *((5, False), (5, True), (20, True)),
        *(
            pytest.param(step, before_hooks, marks=pytest.mark.slow)
            for step, before_hooks in [(2, False), (10, True), (17, False), (20, False)]
        ),
    ],
)
def test_killed_between_dev_scores(
    step: int, before_hooks: bool, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*WITH_DEV_SCORES, "trainer.checkpoint_every_n_steps=3")
    with dying_at(step, before_hooks=before_hooks):
        train_tiny(tmp_path, *overrides)
    result = train_tiny(tmp_path, *overrides)
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == NUM_STEPS
    assert have_equal_weights(result.adapter, uninterrupted(*overrides) / "adapter")


def _die_between_a_better_adapter_and_its_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, scores_then: dict[int, float]
) -> Path:
    """Returns the candidates of a run that goes on with other scores from a checkpoint of step 7,
    which calls the adapter of step 5 the best, though that of step 10 was found to be better."""
    scores = {5: 80.10, 10: 80.12}
    monkeypatch.setattr(DevScore, "_score", lambda self, step, total: scores[step])
    with dying_at(11):
        train_tiny(folder, *_SPARSE)
    scores.update(scores_then)
    candidates = folder / "run" / "candidates"
    assert {p.name for p in candidates.iterdir()} == {"step-000005", "step-000010"}
    return candidates


_SPARSE = (*WITH_DEV_SCORES, "trainer.checkpoint_every_n_steps=7")


def test_killed_between_a_better_adapter_and_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = {15: 70.0, 20: 60.0}
    _die_between_a_better_adapter_and_its_checkpoint(tmp_path, monkeypatch, scores_then=worse)
    result = train_tiny(tmp_path, *_SPARSE)
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == 10
    expected = train_tiny(tmp_path / "whole", *_SPARSE)
    assert have_equal_weights(result.adapter, expected.adapter)


@pytest.mark.parametrize(
    ("is_best_there", "later_score", "expected"), [(True, 60, 5), (True, 90, 20), (False, 60, 10)]
)
def test_a_step_that_scores_otherwise_when_it_is_repeated(
    is_best_there: bool,
    later_score: float,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on GPUs, whose steps are not repeated to the bit.
    now = {10: 80.09, 15: 70.0, 20: later_score}
    candidates = _die_between_a_better_adapter_and_its_checkpoint(
        tmp_path, monkeypatch, scores_then=now
    )
    if not is_best_there:
        shutil.rmtree(candidates / "step-000005")
    result = train_tiny(tmp_path, *_SPARSE)
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == expected
    assert not candidates.exists()
