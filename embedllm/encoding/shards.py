"""The shards in an output folder: which are there, who makes one, how one is written.

    ids-00012.npy, vectors-00012.npy    or    vectors-00012.parquet
    manifest.json                       what decides the vectors
    .work/                              the index of the input, locks, files being written

A file appears by renaming and the vectors of a shard come last, so where they are the shard is
whole. A process claims a shard with a lock that goes with the process, also when that is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from embedllm.errors import CheckpointError

WORK_FOLDER: Final = ".work"
_PARQUET_GROUP_ROWS: Final = 8192


class ShardFolder:
    """The shards of one output folder.

    Args:
        root: The folder.
        suffix: `npy` or `parquet`.
        dtype: `float32` or `float16`.
    """

    def __init__(self, root: Path, *, suffix: str, dtype: str) -> None:
        self.root = root
        self.suffix = suffix
        self.dtype = np.dtype(dtype)
        self.work = root / WORK_FOLDER
        self._locks = self.work / "locks"

    def make(self) -> None:
        """Makes the folder where it is missing.

        Raises:
            CheckpointError: It cannot be made.
        """
        with self._as_write_error(self.root):
            self._locks.mkdir(parents=True, exist_ok=True)

    def vectors_path(self, shard: int) -> Path:
        """Returns the file that says, by being there, that the shard is whole."""
        return self.root / f"vectors-{shard:05d}.{self.suffix}"

    def ids_path(self, shard: int) -> Path:
        """Returns the file of the ids where they have one of their own."""
        return self.root / f"ids-{shard:05d}.npy"

    def list_there(self) -> set[int]:
        """Returns the shards whose vectors are there."""
        names = (entry.name for entry in os.scandir(self.root))
        parts = (name.removesuffix(f".{self.suffix}").split("-") for name in names)
        return {int(p[1]) for p in parts if len(p) == 2 and p[0] == "vectors" and p[1].isdigit()}

    def is_there(self, shard: int) -> bool:
        """Whether some process has finished the shard."""
        return self.vectors_path(shard).exists()

    def is_intact(self, shard: int, num_rows: int) -> bool:
        """Whether the files of a finished shard are what was written, by type and size."""
        try:
            if self.suffix == "parquet":
                import pyarrow.parquet as pq

                return bool(pq.read_metadata(self.vectors_path(shard)).num_rows == num_rows)
            vectors = np.load(self.vectors_path(shard), mmap_mode="r", allow_pickle=False)
            ids = np.load(self.ids_path(shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            # pyarrow's error for a damaged file is a ValueError too.
            return False
        return len(vectors) == len(ids) == num_rows and vectors.dtype == self.dtype

    @contextmanager
    def claimed(self, shard: int) -> Iterator[bool]:
        """Holds a shard for this process while the block runs; yields False if another does."""
        name = f"{shard:05d}"
        with self.lock(name) as is_mine:
            yield is_mine
            # Who locked the old file, or makes a new one, looks first whether the shard is there.
            if is_mine and self.is_there(shard):
                (self._locks / name).unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Holds a lock while the block runs; yields False if another process has it.

        Args:
            name: What it is about.
            wait: Wait for the other process instead.

        Raises:
            CheckpointError: The folder's disk has no locks.
        """
        lock = FileLock(self._locks / name, timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise CheckpointError(
                f"{lock.lock_file} cannot be locked: {error}; set output to a folder that can be "
                "written, on a disk that has file locks"
            ) from error
        try:
            yield True
        finally:
            lock.release()

    def remove(self, shard: int) -> None:
        """Removes a damaged shard; the caller has claimed it."""
        self.vectors_path(shard).unlink(missing_ok=True)

    def write(self, shard: int, ids: NDArray[Any], vectors: NDArray[Any]) -> None:
        """Adds a shard; the caller has claimed it.

        Args:
            shard: Its number.
            ids: [N] int64 or texts.
            vectors: [N, D] in the folder's type.

        Raises:
            CheckpointError: The disk is full or the folder cannot be written.
        """
        assert len(ids) == len(vectors)
        assert vectors.dtype == self.dtype
        if self.suffix == "parquet":
            self._write_file(
                self.vectors_path(shard), lambda file: _write_parquet(file, ids, vectors)
            )
            return
        self._write_file(self.ids_path(shard), lambda file: np.save(file, ids, allow_pickle=False))
        self._write_file(
            self.vectors_path(shard), lambda file: np.save(file, vectors, allow_pickle=False)
        )

    def write_json(self, path: Path, values: Any) -> None:
        """Writes a JSON file; the caller has locked what it is about.

        Raises:
            CheckpointError: The disk is full or the folder cannot be written.
        """
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        self._write_file(path, lambda file: file.write(f"{text}\n".encode()))

    def _write_file(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        # One name for each file, so that what a killed process left is written over.
        work = self.work / f"{path.name}.new"
        with self._as_write_error(path):
            try:
                with work.open("wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                work.replace(path)
            except BaseException:
                work.unlink(missing_ok=True)
                raise

    @contextmanager
    def _as_write_error(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error}. The shards that are there stay; make room or "
                "mend the folder and give the same command again, or set output to another folder"
            ) from error


def to_id_array(ids: list[int] | list[str], id_type: str) -> NDArray[Any]:
    """Returns ids as int64, or as texts of the length of the longest."""
    return np.array(ids, dtype=np.str_ if id_type == "text" else np.int64)


def _write_parquet(file: BinaryIO, ids: NDArray[Any], vectors: NDArray[Any]) -> None:
    """Writes columns `id` and `vector` (a list of fixed size) in groups of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"float32": pa.float32(), "float16": pa.float16()}
    dim = vectors.shape[1]
    schema = pa.schema(
        {
            "id": pa.int64() if ids.dtype == np.int64 else pa.string(),
            "vector": pa.list_(kinds[vectors.dtype.name], dim),
        }
    )
    # Numbers of a vector hardly repeat; a dictionary of them would cost and save nothing.
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for start in range(0, len(ids), _PARQUET_GROUP_ROWS):
            rows = slice(start, start + _PARQUET_GROUP_ROWS)
            flat = pa.array(vectors[rows].reshape(-1))
            columns = [
                pa.array(ids[rows].tolist(), type=schema.field("id").type),
                pa.FixedSizeListArray.from_arrays(flat, dim),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
