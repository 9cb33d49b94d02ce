"""Resume points: Lightning's checkpoints, written atomically and read without unpickling code."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from embedllm.errors import CheckpointError
from embedllm.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a kill leaves the old file or the new one.

    Lightning writes to the system's temporary folder and moves the file, which across file
    systems is a copy that a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves the checkpoint under `path`."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Returns the checkpoint; only tensors and plain values are accepted.

        Raises:
            CheckpointError: The file is damaged or holds anything else.
        """
        try:
            # torch.load takes a flipped bit for a weight; the archive's checksums do not.
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} has another checksum")
            return torch.load(path, map_location=map_location, weights_only=True)  # type: ignore[no-any-return]
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it to "
                "resume from the one before, or start under another run_name"
            ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint with the highest step in its name, None when there is none."""
    return max(folder.glob("step-*.ckpt"), default=None)
