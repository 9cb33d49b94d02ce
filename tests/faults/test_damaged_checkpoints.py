"""Bits that flip and ends that are missing, anywhere in a checkpoint: found, or without effect."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_tally import Tally
from tiny_runs import have_equal_weights, train_tiny

from embedllm.errors import CheckpointError
from embedllm.training.checkpoints import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")
NUM_FLIPS = 100
NUM_CUTS = 25
SEED = 20264


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of 8 steps, with checkpoints of steps 6 and 8."""
    folder = tmp_path_factory.mktemp("damaged")
    train_tiny(folder, "evaluation=none")
    return folder


def _are_equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_are_equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_are_equal, left, right))
    return bool(left == right)


def test_flipped_bits_and_cut_ends(trained: Path, tally: Tally, tmp_path: Path) -> None:
    path = trained / "run" / "checkpoints" / "step-000008.ckpt"
    content, whole = path.read_bytes(), read_checkpoint(path)
    assert not _are_equal(whole, read_checkpoint(path.with_name("step-000006.ckpt")))
    draw = random.Random(SEED)
    copy = tmp_path / "copy.ckpt"
    lost = []  # steps: the checkpoint before was made two steps earlier
    for i in range(NUM_FLIPS + NUM_CUTS):
        damaged = bytearray(content)
        if i < NUM_FLIPS:
            damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(content)) :]
        copy.write_bytes(damaged)
        try:
            found = read_checkpoint(copy)
        except CheckpointError:
            lost.append(2)
            continue
        # What fills up between tensors, and names that nobody reads.
        assert i < NUM_FLIPS
        assert _are_equal(found, whole)
        lost.append(0)
    assert sum(lost[:NUM_FLIPS]) > NUM_FLIPS
    tally.add("a checkpoint with a flipped bit", steps_lost=lost[:NUM_FLIPS])
    tally.add("a checkpoint that is cut off", steps_lost=lost[NUM_FLIPS:])


@pytest.mark.parametrize("damage", ["flipped", "cut", "deleted"])
def test_the_run_goes_on_from_the_one_before(damage: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.move(tmp_path / "run" / "adapter", tmp_path / "whole")
    path = tmp_path / "run" / "checkpoints" / "step-000008.ckpt"
    content = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-100])
    else:
        content[len(content) // 3] ^= 4
        path.write_bytes(content)
    adapter = train_tiny(tmp_path, "evaluation=none").adapter
    assert have_equal_weights(adapter, tmp_path / "whole")
