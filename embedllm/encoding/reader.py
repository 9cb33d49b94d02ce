"""Reads what `python -m embedllm encode` wrote, shard by shard, without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedllm.encoding.manifest import read_manifest
from embedllm.encoding.shards import ShardFolder, to_id_array
from embedllm.errors import CheckpointError


@dataclass(frozen=True)
class Shard:
    """One shard.

    Attributes:
        ids: [N] row numbers or whole numbers (int64), or texts.
        vectors: [N, D] float32 or float16, row for row; a view of the file where that is npy, so
            nothing is read that is not looked at.
    """

    ids: NDArray[Any]
    vectors: NDArray[Any]


def read_shards(folder: Path | str, *, allow_missing: bool = False) -> Iterator[Shard]:
    """Yields the shards in order; their rows together are those of the input, in its order.

    Without this package: `numpy.load("vectors-00000.npy", mmap_mode="r")` and the ids beside it,
    or any reader of Parquet.

    Args:
        folder: What `output` was.
        allow_missing: Leave out shards that are not there yet instead of raising.

    Raises:
        CheckpointError: The folder was not written by `encode`, or shards are missing; raised
            before the first one is yielded.

    Example:
        >>> total = sum(len(shard.ids) for shard in read_shards("outputs/vectors"))
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest is None:
        raise CheckpointError(f"{root} has no manifest.json; give the folder that output named")
    settings = manifest["settings"]["output"]
    shards = ShardFolder(root, suffix=settings["format"], dtype=settings["dtype"])
    there = shards.list_there()
    num_shards = manifest.get("num_shards")
    missing = set(range(num_shards or 0)) - there
    if (missing or num_shards is None) and not allow_missing:
        raise CheckpointError(
            f"{root} is not finished: {len(there)} of {num_shards or 'an unknown number of'} "
            "shards are there; give the same encode command again, or allow_missing=True"
        )
    return (_read(shards, shard) for shard in sorted(there))


def _read(shards: ShardFolder, shard: int) -> Shard:
    path = shards.vectors_path(shard)
    if shards.suffix == "npy":
        ids = np.load(shards.ids_path(shard), allow_pickle=False)
        return Shard(ids, np.load(path, mmap_mode="r", allow_pickle=False))
    import pyarrow.parquet as pq

    table = pq.read_table(path, memory_map=True)
    column = table.column("vector").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    id_type = "int64" if table.schema.field("id").type == "int64" else "text"
    return Shard(to_id_array(table.column("id").to_pylist(), id_type), vectors)
