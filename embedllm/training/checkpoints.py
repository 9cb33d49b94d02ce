"""Resume points: Lightning's checkpoints, written atomically and read without unpickling code."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from embedllm.config import StrategyConfig
from embedllm.errors import CheckpointError
from embedllm.files import new_file
from embedllm.log import get_logger

_log = get_logger(__name__)


class StepCheckpoint(pl.callbacks.ModelCheckpoint):
    """A checkpoint every n optimizer steps, and when it is asked for.

    Two are kept: the newest and, should that be damaged, the one before.

    Args:
        folder: Where they go.
        every_n_steps: Distance in optimizer steps.
    """

    def __init__(self, folder: Path, *, every_n_steps: int) -> None:
        super().__init__(
            dirpath=folder,
            filename="step-{step:06d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_steps,
            save_top_k=2,
            monitor="step",
            mode="max",
        )

    def save_now(self, trainer: pl.Trainer) -> None:
        """Saves this step too; for use where Lightning would save, when a step is done."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a kill leaves the old file or the new one.

    Lightning writes to the system's temporary folder and moves the file, which across file
    systems is a copy that a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves the checkpoint under `path`."""
        with new_file(Path(path)) as file, _first_write_error():
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Returns the checkpoint; only tensors and plain values are accepted.

        Tensors were on rank 0's device; each rank takes its own from the host.

        Raises:
            CheckpointError: The file is damaged or holds anything else.
        """
        return read_checkpoint(Path(path), map_location=map_location)


@contextmanager
def _first_write_error() -> Iterator[None]:
    """Passes on what the disk said, where torch fails once more when it closes the archive."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_checkpoint(path: Path, *, map_location: Any | None = "cpu") -> dict[str, Any]:
    """Returns a checkpoint, every part of it compared with its checksum.

    Args:
        path: The file.
        map_location: Where its tensors go, as for `torch.load`.

    Raises:
        CheckpointError: The file is damaged or holds anything but tensors and plain values.
    """
    try:
        # torch.load takes a flipped bit for a weight; the archive's checksums do not.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} has another checksum")
        # Mapped, so that the ranks of a machine share what each of them takes its part of.
        return torch.load(path, map_location=map_location, weights_only=True, mmap=True)  # type: ignore[no-any-return]
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {error})"
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the sound checkpoint with the highest step in its name, None when there is none.

    A damaged one is put aside under another name, with a warning, and the one before it is used.
    What a write left that was killed goes, so the caller holds the run's lock.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged.
    """
    for unfinished in folder.glob(".step-*.ckpt.*"):
        unfinished.unlink(missing_ok=True)
    damaged: dict[Path, CheckpointError] = {}
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        try:
            read_checkpoint(path, map_location="meta")
        except CheckpointError as error:
            damaged[path] = error
            continue
        for other, reason in damaged.items():
            aside = other.with_suffix(".damaged")
            other.replace(aside)
            _log.warning("%s; it is now %s, and the one before it is used", reason, aside.name)
        return path
    if damaged:
        raise CheckpointError(
            f"all checkpoints in {folder} are damaged: {'; '.join(map(str, damaged.values()))}. "
            "Start the run under another run_name, or delete them to start it anew"
        )
    return None


def check_may_resume(folder: Path, strategy: StrategyConfig) -> None:
    """Raises CheckpointError for a run that would go on with its optimizer's state on a disk.

    DeepSpeed puts the state there in the first step, and has no place for that of a checkpoint.

    Args:
        folder: Where the run's checkpoints are.
        strategy: That of this start.
    """
    if strategy.offload == "nvme" and any(folder.glob("step-*.ckpt")):
        raise CheckpointError(
            f"there are checkpoints in {folder}, and strategy.offload=nvme cannot go on from one; "
            "use strategy.offload=cpu (or another strategy) and resume=adapt, or another run_name"
        )


@dataclass(frozen=True)
class Layout:
    """How a run is spread over processes; its results do not depend on it beyond rounding.

    Attributes:
        strategy: Title of the strategy.
        world_size: Processes.
    """

    strategy: str
    world_size: int

    def __str__(self) -> str:
        return f"strategy={self.strategy} on {self.world_size} process(es)"


ALONE: Final = Layout("single", 1)


def check_layout(path: Path, current: Layout, *, may_change: bool) -> None:
    """Compares how the run that wrote a checkpoint was spread with how this one is.

    Args:
        path: The checkpoint.
        current: The layout of this start.
        may_change: Whether another one is wanted (`resume=adapt`).

    Raises:
        CheckpointError: It is another one, and that is not wanted.
    """
    written = read_checkpoint(path, map_location="meta").get("layout")
    saved = Layout(**written) if written else ALONE
    if saved == current:
        return
    if not may_change:
        raise CheckpointError(
            f"{path} was written by a run with {saved}, this one has {current}; use the same, or "
            "resume=adapt to go on with this one (the numbers are the same to rounding)"
        )
    _log.info("the run goes on with %s; it was started with %s", current, saved)
