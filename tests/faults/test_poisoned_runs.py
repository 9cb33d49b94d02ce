"""Runs that stop at a NaN at any step go on to the same adapter once its cause is gone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fault_tally import Tally
from poisoned_steps import poisoned_gradients, poisoned_losses
from tiny_runs import have_equal_weights, read_json, train_tiny

from embedllm.errors import NonFiniteError
from embedllm.training.checkpoints import newest_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")
SHORT = ("evaluation=none", "data.max_examples=96", "trainer.max_steps=12")
SEED = 20266


def test_a_nan_at_any_step(tally: Tally, tmp_path: Path) -> None:
    overrides = (*SHORT, "trainer.checkpoint_every_n_steps=3")
    whole = train_tiny(tmp_path / "whole", *overrides).adapter
    lost = []
    for i, step in enumerate(random.Random(SEED).sample(range(1, 13), 4)):
        folder = tmp_path / f"{step}"
        poison = (poisoned_gradients, poisoned_losses)[i % 2]
        with poison(step), pytest.raises(NonFiniteError, match=f"of step {step} is NaN"):
            train_tiny(folder, *overrides)
        kept = read_json(folder / "run" / "nonfinite" / f"step-{step:06d}.json")
        assert kept["step"] == step
        newest = newest_checkpoint(folder / "run" / "checkpoints")
        lost.append(step - 1 - (int(newest.stem[5:]) if newest else 0))
        assert have_equal_weights(train_tiny(folder, *overrides).adapter, whole)
    assert max(lost) < 3
    tally.add("a NaN loss or gradient (trainer.on_nan=stop)", steps_lost=lost)
