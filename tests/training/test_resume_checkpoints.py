"""Checkpoint files: damaged, deleted, half written, of another adapter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from interrupted_runs import dying_at
from limits import largest_file
from tiny_runs import extra_callback, have_equal_weights, train_tiny

from embedllm.errors import CheckpointError
from embedllm.models.adapters import trainable_state
from embedllm.training.checkpoints import AtomicCheckpointIO, newest_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")


def _damage(path: Path, damage: str) -> bytes:
    """Damages a checkpoint and returns what is then in it."""
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "pickle":
        torch.save({"state_dict": Path("/a/path/is/no/plain/value")}, path)
    else:
        flipped = bytes([content[middle] ^ 1])
        path.write_bytes(
            {
                "truncated": content[:middle],
                "empty": b"",
                "bit-flipped": content[:middle] + flipped + content[middle + 1 :],
                "not a checkpoint": b"hello" * 1000,
            }[damage]
        )
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "bit-flipped", "not a checkpoint", "pickle"]
)
def test_the_checkpoint_before_a_damaged_one_is_used(
    damage: str,
    interrupted: Path,
    uninterrupted: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = interrupted / "run" / "checkpoints"
    left = _damage(folder / "step-000004.ckpt", damage)
    result = train_tiny(interrupted, "evaluation=none")
    assert have_equal_weights(result.adapter, uninterrupted("evaluation=none") / "adapter")
    assert "step-000004.ckpt cannot be read" in caplog.text
    # Nothing is thrown away.
    assert (folder / "step-000004.damaged").read_bytes() == left


def test_when_all_checkpoints_are_damaged_nothing_is_trained(interrupted: Path) -> None:
    for path in (interrupted / "run" / "checkpoints").glob("*.ckpt"):
        _damage(path, "truncated")
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged"):
        train_tiny(interrupted, "evaluation=none")


def test_resumes_from_the_checkpoint_before_a_deleted_one(
    interrupted: Path, uninterrupted: Callable[..., Path]
) -> None:
    (interrupted / "run" / "checkpoints" / "step-000004.ckpt").unlink()
    result = train_tiny(interrupted, "evaluation=none")
    assert have_equal_weights(result.adapter, uninterrupted("evaluation=none") / "adapter")


def test_leftovers_of_killed_writes_do_no_harm(
    interrupted: Path, uninterrupted: Callable[..., Path]
) -> None:
    run = interrupted / "run"
    unfinished = run / "checkpoints" / ".step-000006.ckpt.a1b2c3"
    unfinished.write_bytes(b"half a checkpoint")
    (run / ".run.json.a1b2c3").write_bytes(b"{")
    leftover = run / "candidates" / ".step-000006.a1b2c3"
    leftover.mkdir(parents=True)
    (leftover / "adapter_model.safetensors").write_bytes(b"half an adapter")
    result = train_tiny(interrupted, "evaluation=none")
    assert have_equal_weights(result.adapter, uninterrupted("evaluation=none") / "adapter")
    # Each kill would leave another one of the size of a checkpoint.
    assert not unfinished.exists()
    assert not leftover.exists()


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_checkpoints_hold_plain_trainable_weights_alone(adapter: str, tmp_path: Path) -> None:
    modules: list[pl.LightningModule] = []

    class Spy(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            modules.append(pl_module)

    with extra_callback(Spy()):
        train_tiny(tmp_path, "evaluation=none", f"adapter={adapter}")
    path = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert path is not None
    checkpoint = torch.load(path, weights_only=True)
    trainable = trainable_state(modules[0])
    assert checkpoint["state_dict"].keys() == trainable.keys()
    assert all(torch.equal(checkpoint["state_dict"][n], trainable[n]) for n in trainable)
    assert (adapter == "full") == (len(trainable) == len(list(modules[0].named_parameters())))
    # Weights and two AdamW moments in float32, plus some structure per tensor.
    num_bytes = 3 * 4 * sum(value.numel() for value in trainable.values())
    assert num_bytes < path.stat().st_size < num_bytes + 2_000 * len(trainable) + 50_000


def test_a_checkpoint_of_another_adapter_is_refused(interrupted: Path) -> None:
    other = interrupted / "other"
    with dying_at(5):
        train_tiny(other, "evaluation=none", "adapter.options.r=8")
    shutil.copy(
        other / "run" / "checkpoints" / "step-000004.ckpt",
        interrupted / "run" / "checkpoints" / "step-000004.ckpt",
    )
    with pytest.raises(CheckpointError, match="another adapter configuration"):
        train_tiny(interrupted, "evaluation=none")


def test_a_checkpoint_write_is_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step-000001.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"value": 1}, path)

    def fail(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        writer.save_checkpoint({"value": 2}, path)
    assert writer.load_checkpoint(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_to_the_host_whatever_device_they_were_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    load = torch.load

    def noted(*args: Any, **options: Any) -> Any:
        places.append(options["map_location"])
        return load(*args, **options)

    path = tmp_path / "step-000001.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"a": torch.ones(2)}, path)
    monkeypatch.setattr(torch, "load", noted)
    # Lightning's strategies leave the place to it.
    assert torch.equal(writer.load_checkpoint(path)["a"], torch.ones(2))
    assert places == ["cpu"]


def test_a_disk_that_is_full_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"a": torch.ones(2)}, path)
    for size in (3_000, 300_000):
        with largest_file(2_000), pytest.raises(CheckpointError, match="cannot be written: File"):
            writer.save_checkpoint({"a": torch.ones(size)}, path)
    assert torch.equal(writer.load_checkpoint(path)["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
