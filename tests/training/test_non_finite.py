"""A loss or gradient that is NaN or infinite: no weight takes the step, and the batch is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from interrupted_runs import dying_at
from poisoned_steps import poisoned_gradients, poisoned_losses
from tiny_runs import (
    TWENTY_STEPS,
    extra_callback,
    have_equal_weights,
    read_json,
    run_script,
    tiny_config,
    train_tiny,
)
from torch import Tensor

from embedllm.data.examples import load_training_data
from embedllm.errors import NonFiniteError
from embedllm.models.adapters import trainable_state
from embedllm.training.callbacks.finite_steps import MAX_IN_A_ROW
from embedllm.training.checkpoints import newest_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")

SKIP = (*TWENTY_STEPS, "trainer.on_nan=skip", "trainer.checkpoint_every_n_steps=1")
Poison = Callable[..., AbstractContextManager[None]]
POISONS = pytest.mark.parametrize("poison", [poisoned_losses, poisoned_gradients])


class _Weights(pl.Callback):
    """Keeps the weights behind every step, and how many steps the optimizer has made."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, Tensor]] = {}
        self.num_made = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        state = trainable_state(pl_module)
        self.after[trainer.global_step] = {n: value.clone() for n, value in state.items()}
        steps = {int(s["step"]) for s in trainer.optimizers[0].state.values()} or {0}
        [self.num_made] = steps


@POISONS
def test_stop_keeps_the_batch_and_the_last_checkpoint(
    poison: Poison, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*TWENTY_STEPS, "trainer.checkpoint_every_n_steps=3")
    with poison(8), pytest.raises(NonFiniteError, match=r"step 8 is NaN .*step-000008\.json"):
        train_tiny(tmp_path, *overrides)
    run = tmp_path / "run"
    newest = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    assert newest.name == "step-000006.ckpt"
    weights = torch.load(newest, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    # What the batch was, and the same command once the cause is gone.
    kept = read_json(run / "nonfinite" / "step-000008.json")
    _check_batch(kept, tmp_path, is_loss=poison is poisoned_losses)
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def _check_batch(kept: dict[str, Any], folder: Path, *, is_loss: bool) -> None:
    config = tiny_config(folder, *TWENTY_STEPS)
    examples = load_training_data(config.data, seed=config.seed).examples
    assert kept["step"] == 8
    [micro_batch] = kept["micro_batches"]
    assert micro_batch["has_finite_loss"] is not is_loss
    assert (len(kept["weights_with_such_gradients"]) == 1) is not is_loss
    assert len(micro_batch["examples"]) == config.data.global_batch_size
    for found in micro_batch["examples"]:
        example = examples[found["example"]]
        assert (found["anchor"], found["positive"]) == (example.anchor, example.positive)
        assert found["negatives"] == list(example.negatives)
        ids = found["token_ids"]
        assert [len(ids[k]) for k in ("anchor", "positive", "negatives")] == [1, 1, 1]
        # Longer texts have more tokens: the ids are those of their text.
        assert len({tuple(ids[k][0]) for k in ids}) == len(
            {found["anchor"], found["positive"], *found["negatives"]}
        )


@POISONS
def test_skip_leaves_out_the_step_alone(
    poison: Poison,
    tmp_path: Path,
    uninterrupted: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = _Weights()
    with poison(5, 12), extra_callback(weights):
        result = train_tiny(tmp_path, *SKIP)
    for step in range(2, 21):
        before, after = weights.after[step - 1], weights.after[step]
        is_same = all(torch.equal(before[n], after[n]) for n in after)
        assert is_same == (step in (5, 12)), step
    assert weights.num_made == 18
    assert "(trainer.on_nan=skip; 2 so far, 1 in a row)" in caplog.text
    assert not have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")
    kept = sorted(path.name for path in (tmp_path / "run" / "nonfinite").iterdir())
    assert kept == ["step-000005.json", "step-000012.json"]


def test_a_resumed_run_leaves_out_the_same_steps(tmp_path: Path) -> None:
    with poisoned_gradients(5, 9):
        whole = train_tiny(tmp_path / "whole", *SKIP).adapter
        for step in (5, 7):
            with dying_at(step):
                train_tiny(tmp_path / "resumed", *SKIP)
        resumed = train_tiny(tmp_path / "resumed", *SKIP).adapter
    assert have_equal_weights(resumed, whole)


def test_too_many_in_a_row_end_the_run_also_across_a_resume(tmp_path: Path) -> None:
    poison = poisoned_losses(*range(4, 20))
    with poison:
        with dying_at(6):
            train_tiny(tmp_path, *SKIP)
        with pytest.raises(
            NonFiniteError, match=rf"the loss of step 8 .* {MAX_IN_A_ROW - 1} steps"
        ):
            train_tiny(tmp_path, *SKIP)
    assert not (tmp_path / "run" / "adapter").exists()


def test_one_bad_micro_batch_leaves_out_the_whole_step(tmp_path: Path) -> None:
    weights = _Weights()
    overrides = (*SKIP, "trainer.accumulate_grad_batches=2", "data.global_batch_size=8")
    with poisoned_losses(3, micro_batch=0, value=float("inf")), extra_callback(weights):
        train_tiny(tmp_path, *overrides)
    assert all(torch.equal(weights.after[2][n], weights.after[3][n]) for n in weights.after[3])
    kept = read_json(tmp_path / "run" / "nonfinite" / "step-000003.json")
    assert [part["has_finite_loss"] for part in kept["micro_batches"]] == [False, True]


def test_a_run_that_stopped_goes_on_with_skip(tmp_path: Path) -> None:
    overrides = (*TWENTY_STEPS, "trainer.checkpoint_every_n_steps=2")
    with poisoned_gradients(7):
        with pytest.raises(NonFiniteError):
            train_tiny(tmp_path / "stopped", *overrides)
        found = train_tiny(tmp_path / "stopped", *overrides, "trainer.on_nan=skip").adapter
        expected = train_tiny(tmp_path / "whole", *overrides, "trainer.on_nan=skip").adapter
    assert have_equal_weights(found, expected)


def test_train_py_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    # For real: such a step makes the weights so large that the next loss is none.
    done = run_script(
        *("train.py", "debug=tiny", "run_name=run", f"paths.output_dir={tmp_path}"),
        *("evaluation=none", "adapter=full", "trainer.learning_rate=1e20"),
    )
    assert done.returncode == NonFiniteError.exit_code == 4, done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "adapter").exists()
