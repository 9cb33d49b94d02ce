"""Writers of input files in every format, and calls of `python -m embedllm encode`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedllm import cli
from embedllm.config import EncodeConfig, ModelConfig, PathsConfig, PromptConfig
from embedllm.encoding.index import build_index, read_shard
from embedllm.encoding.inputs import open_inputs
from embedllm.encoding.row_files import RowFile

SUFFIXES = ("txt", "csv", "tsv", "jsonl", "parquet")
SHARD_SUFFIXES = (".npy", ".parquet")
# With the usual 0.02 the vectors of all sentences would be nearly the same.
SPREAD = "+model.architecture.init_std=0.2"


def write_input(
    path: Path, texts: Sequence[str], ids: Sequence[Any] | None = None, *, group_rows: int = 1000
) -> Path:
    """Writes texts, and ids in a column `id`, in the format that the name says."""
    rows = [{"id": i, "text": t} for i, t in zip(ids or range(len(texts)), texts, strict=True)]
    kind = path.suffix.lower()
    if kind == ".txt":
        path.write_bytes("".join(f"{text}\n" for text in texts).encode())
    elif kind in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if kind == ".tsv" else ",")
            writer.writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
    elif kind == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    else:
        table = pa.table({"id": [r["id"] for r in rows], "text": list(texts)})
        pq.write_table(table, path, row_group_size=group_rows)
    return path


def open_files(*paths: Path, **options: Any) -> list[RowFile]:
    """Opens files as a call with these keys would."""
    return open_inputs(
        EncodeConfig(
            input=[str(path) for path in paths],
            output="/nowhere/output",
            model=ModelConfig(name="x"),
            prompt=PromptConfig(template="{sentence}"),
            paths=PathsConfig(cache_dir="/nowhere/cache"),
            **options,
        )
    )


def read_back(
    files: Sequence[RowFile], *, shard_rows: int, on_bad_row: str = "error", backwards: bool = False
) -> tuple[list[str], list[Any]]:
    """Returns all texts and ids, shard by shard, as an encoding process reads them."""
    index = build_index(files, shard_rows=shard_rows, on_bad_row=on_bad_row)
    order = range(index.num_shards)
    parts = {i: read_shard(files, index, i) for i in (reversed(order) if backwards else order)}
    texts = [text for i in order for text in parts[i].texts]
    return texts, [row_id for i in order for row_id in parts[i].ids]


def arguments(source: Path | Sequence[Path], output: Path, *overrides: str) -> list[str]:
    """Returns the command line of a small call; later overrides win."""
    paths = [source] if isinstance(source, Path) else source
    values = dict(
        override.split("=", 1)
        for override in [
            "model=tiny",
            SPREAD,
            f"input=[{','.join(map(str, paths))}]",
            f"output={output}",
            "shard_rows=100",
            f"paths.cache_dir={output.parent / 'cache'}",
            *overrides,
        ]
    )
    return ["encode", *(f"{key}={value}" for key, value in values.items())]


def encode(source: Path | Sequence[Path], output: Path, *overrides: str) -> Path:
    """Encodes in this process and returns the output folder."""
    cli.main(arguments(source, output, *overrides))
    return output


def read_bytes(folder: Path) -> dict[str, bytes]:
    """Returns the content of all shards by file name."""
    return {path.name: path.read_bytes() for path in _shard_files(folder)}


def shard_times(folder: Path) -> dict[str, int]:
    """Returns when each file of a shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in _shard_files(folder)}


def _shard_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in SHARD_SUFFIXES)


def close(left: Any, right: Any, tolerance: float) -> bool:
    """Whether two arrays have the same shape and no number differs by more, relative to 1."""
    return left.shape == right.shape and bool(
        np.allclose(left, right, rtol=tolerance, atol=tolerance)
    )
