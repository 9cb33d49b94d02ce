"""The folder of a run: who may use it, what it was started with, what it has finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from embedllm.config import TrainConfig, describe_differences, fingerprint, training_identity
from embedllm.errors import CheckpointError
from embedllm.files import write_json
from embedllm.ranks import current_rank

_MANIFEST = "run.json"
# A report that looks whether the folder is in use holds the lock for a moment.
_CLAIM_SECONDS = 1.0


class RunFolder:
    """Paths and rules of one run folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.candidates = root / "candidates"
        self.adapter = root / "adapter"
        self.logs = root / "logs"

    @contextmanager
    def claimed(self, config: TrainConfig, data_sha256: str) -> Iterator[None]:
        """Holds the folder for this process and checks that it is this run's.

        The lock goes with the process, also when it is killed.

        Args:
            config: The run's config.
            data_sha256: Checksum of the training data.

        Raises:
            CheckpointError: Another process uses the folder, `resume=never` and there is a run
                in it, or that run had another config or other data.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".lock", timeout=_CLAIM_SECONDS)
            lock.acquire()
        except Timeout as error:
            raise CheckpointError(
                f"{self.root} is in use by another run; wait for it or choose another run_name"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"the run folder {self.root} cannot be written: {error}; set paths.output_dir"
            ) from error
        try:
            self._check_or_write_manifest(config, data_sha256)
            yield
        finally:
            lock.release()

    def _check_or_write_manifest(self, config: TrainConfig, data_sha256: str) -> None:
        identity = training_identity(config) | {"data_sha256": data_sha256}
        saved = self.read_manifest()
        if saved is None:
            manifest = {
                "fingerprint": fingerprint(identity),
                "identity": identity,
                "config": asdict(config),
                "world_size": current_rank().world_size,
            }
            write_json(self.root / _MANIFEST, manifest)
            return
        if config.resume == "never":
            raise CheckpointError(
                f"{self.root} already holds a run and resume=never; choose another run_name"
            )
        if saved["fingerprint"] != fingerprint(identity):
            raise CheckpointError(
                f"{self.root} holds a run with another configuration "
                f"({describe_differences(saved['identity'], identity)}); use the same values to "
                "resume it or another run_name to start anew"
            )

    def read_manifest(self) -> dict[str, Any] | None:
        """Returns what the run in this folder was started with, None when no run has begun.

        A start that failed before it had anything to lose binds nobody to its configuration.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = self.root / _MANIFEST
        if not path.exists() or not self._has_progress():
            return None
        try:
            saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not {"fingerprint", "identity", "config"} <= saved.keys():
                raise ValueError("something is missing")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged; choose another run_name") from error
        return saved

    def _has_progress(self) -> bool:
        folders = (self.checkpoints, self.candidates, self.adapter, self._result_path("x").parent)
        return any(folder.exists() for folder in folders)

    def read_result(self, name: str) -> dict[str, Any] | None:
        """Returns a finished result (`before`, `after`), None when there is none yet."""
        path = self._result_path(name)
        if not path.exists():
            return None
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged; delete it to score again") from error
        return value

    def write_result(self, name: str, record: dict[str, Any]) -> Path:
        """Writes a result as JSON and returns its path."""
        write_json(self._result_path(name), record)
        return self._result_path(name)

    def _result_path(self, name: str) -> Path:
        return self.root / "results" / f"{name}.json"
