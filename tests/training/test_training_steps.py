"""Dropout, clipping, schedule, length and order of a run, and data of other shapes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from recorded_runs import FinishedRun, column, read_metrics, record_run
from tiny_runs import read_json

from embedllm.training.callbacks.step_seed import StepSeed


def test_dropout_is_active_in_training(finished: FinishedRun) -> None:
    assert all(finished.recorder.is_training)
    module = finished.recorder.module
    assert module is not None
    embedder = copy.deepcopy(module.embedder).train().requires_grad_(False)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")

    def embed(seed: int, batch_idx: int) -> torch.Tensor:
        StepSeed(seed).on_train_batch_start(trainer, module, None, batch_idx)
        ids = torch.tensor([[2, 10, 20, 30]])
        return embedder(ids, torch.ones_like(ids))  # type: ignore[no-any-return]

    assert torch.equal(embed(0, 0), embed(0, 0))
    assert not torch.equal(embed(0, 0), embed(0, 1))
    assert not torch.equal(embed(0, 0), embed(1, 0))


def test_evaluation_leaves_dropout_on_for_the_next_step(tmp_path: Path) -> None:
    overrides = ("evaluation.dev_every_n_steps=1", "evaluation.tasks=[]", "trainer.max_steps=3")
    recorder, _ = record_run(tmp_path, *overrides)
    assert recorder.is_training == [True] * 3


def test_gradients_are_clipped(tmp_path: Path) -> None:
    free, _ = record_run(tmp_path / "a", "evaluation=none", "trainer.gradient_clip_norm=0")
    assert min(free.gradient_norms) > 0.02
    clipped, _ = record_run(tmp_path / "b", "evaluation=none", "trainer.gradient_clip_norm=0.01")
    assert clipped.gradient_norms == pytest.approx([0.01] * 8, rel=1e-3)


@pytest.mark.parametrize(("warmup", "used"), [(100, 2), (1, 1), (0, 0)])
def test_linear_schedule(warmup: int, used: int, tmp_path: Path) -> None:
    # At most a tenth of the steps is warm-up.
    recorder, _ = record_run(
        tmp_path,
        "evaluation=none",
        "trainer.max_epochs=3",
        "trainer.max_steps=20",
        f"trainer.warmup_steps={warmup}",
        "trainer.learning_rate=0.001",
    )
    expected = [
        0.001 * (done / used if done < used else (20 - done) / (20 - used)) for done in range(20)
    ]
    assert recorder.learning_rates == pytest.approx(expected, rel=1e-12)
    logged = column(read_metrics(tmp_path / "run"), "train/learning_rate")
    assert list(logged.values()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("cosine", lambda done: 0.5 * (1 + math.cos(math.pi * done / 8))),
        ("constant_with_warmup", lambda done: 1.0),
    ],
)
def test_other_schedules(name: str, factor: Callable[[int], float], tmp_path: Path) -> None:
    recorder, _ = record_run(tmp_path, "evaluation=none", f"trainer.lr_schedule={name}")
    expected = [5e-4 * factor(done) for done in range(8)]
    assert recorder.learning_rates == pytest.approx(expected, rel=1e-9)


# --- Length and order ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("trainer.max_steps=5",), 5),
        (("trainer.max_steps=null",), 8),
        (("trainer.max_steps=null", "trainer.max_epochs=2"), 16),
        (("trainer.max_steps=100", "trainer.max_epochs=2"), 16),
        (("trainer.max_steps=null", "data.max_examples=60"), 8),
        (("trainer.max_steps=null", "data.max_examples=60", "data.drop_last=true"), 7),
        # A last batch of one example would have no in-batch negative.
        (("trainer.max_steps=null", "data.max_examples=57"), 7),
        (("trainer.max_steps=null", "trainer.accumulate_grad_batches=2"), 8),
        # 15 micro-batches an epoch; its last step has one.
        (
            (
                "trainer.max_steps=null",
                "trainer.max_epochs=2",
                "data.max_examples=60",
                "trainer.accumulate_grad_batches=2",
            ),
            16,
        ),
    ],
)
def test_length_of_a_run(overrides: tuple[str, ...], steps: int, tmp_path: Path) -> None:
    recorder, result = record_run(tmp_path, "evaluation=none", *overrides)
    assert recorder.num_steps == steps
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == steps
    # The schedule ends with the run: the last step has the last rate above zero.
    assert recorder.learning_rates[-1] == pytest.approx(5e-4 / steps * _slope(steps), rel=1e-9)


def _slope(steps: int) -> float:
    return steps / (steps - steps // 10)


def test_each_epoch_has_every_example_once_in_another_order(tmp_path: Path) -> None:
    recorder, _ = record_run(
        tmp_path, "evaluation=none", "trainer.max_steps=null", "trainer.max_epochs=2"
    )
    epochs: dict[int, list[tuple[int, ...]]] = {0: [], 1: []}
    for epoch, batch in zip(recorder.epochs, recorder.batches, strict=True):
        epochs[epoch] += [tuple(ids) for ids in batch.token_ids[: batch.num_anchors]]
    assert len(epochs[0]) == len(epochs[1]) == 64
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_the_seed_decides_the_order(tmp_path: Path) -> None:
    first, _ = record_run(tmp_path / "a", "evaluation=none", "data.max_examples=null")
    second, _ = record_run(tmp_path / "b", "evaluation=none", "data.max_examples=null", "seed=1")
    assert first.batches[0].token_ids != second.batches[0].token_ids


# --- Data of other shapes -----------------------------------------------------------------------


def _write_jsonl(path: Path, num_negatives: int) -> Path:
    lines = []
    for i in range(16):
        row = {"anchor": f"anchor number {i}", "positive": f"positive number {i}"}
        row |= {f"negative_{k}": f"negative {k} of {i}" for k in range(num_negatives)}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("num_negatives", "expected"), [(0, 7), (1, 15), (3, 31)])
def test_pairs_and_several_hard_negatives(
    num_negatives: int, expected: int, tmp_path: Path
) -> None:
    path = _write_jsonl(tmp_path / "train.jsonl", num_negatives)
    recorder, result = record_run(
        tmp_path, "evaluation=none", "data=nli", f"data.path={path}", "data.global_batch_size=8"
    )
    assert recorder.num_steps == 2
    assert set(recorder.negatives) == {expected}
    assert (result.adapter / "adapter_model.safetensors").is_file()


def test_accumulated_batches_have_their_own_negatives_alone(tmp_path: Path) -> None:
    recorder, _ = record_run(tmp_path, "evaluation=none", "trainer.accumulate_grad_batches=2")
    assert recorder.num_steps == 8
    assert len(recorder.batches) == 16
    # Micro-batches of 4: 3 other positives and 4 hard negatives.
    assert {batch.num_anchors for batch in recorder.batches} == {4}
    logged = column(read_metrics(tmp_path / "run"), "train/negatives_per_anchor")
    assert set(logged.values()) == {7.0}
