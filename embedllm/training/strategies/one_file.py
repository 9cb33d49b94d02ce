"""Checkpoints of one file with whole tensors, however the weights are spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import ParallelStrategy


class OneFile(ParallelStrategy):
    """In front of a strategy that would write a folder of pieces."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves one file, as on one process."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Returns the content of that file."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)
