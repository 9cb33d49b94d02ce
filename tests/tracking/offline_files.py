"""Reads what W&B left on the disk: blocks of checked records, which are its own messages."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

_HEADER = struct.Struct("<4sHB")
_CHUNK = struct.Struct("<IHB")
_BLOCK = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_records(path: Path) -> Iterator[Record]:
    """Yields the records of a `.wandb` file; every checksum must match."""
    content = path.read_bytes()
    magic, number, _ = _HEADER.unpack_from(content)
    assert (magic, number) == (b":W&B", 0xBEE1)
    place, pieces = _HEADER.size, b""
    while place + _CHUNK.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _CHUNK.size:
            place += left
            continue
        checksum, length, kind = _CHUNK.unpack_from(content, place)
        piece = content[place + _CHUNK.size : place + _CHUNK.size + length]
        assert zlib.crc32(piece, zlib.crc32(bytes([kind]))) == checksum
        pieces = piece if kind in (_FULL, _FIRST) else pieces + piece
        place += _CHUNK.size + length
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(pieces)
            yield record


@dataclass
class OfflineRun:
    """One start of a run, as W&B would upload it."""

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None
    is_preempted: bool = False

    def curve(self, key: str) -> dict[int, float]:
        """Returns the values of a metric by optimizer step."""
        rows = [row for row in self.history if key in row]
        return {row["trainer/global_step"]: row[key] for row in rows}


def read_offline(folder: Path) -> OfflineRun:
    """Returns the content of an `offline-run-...` or `run-...` folder."""
    [path] = folder.glob("*.wandb")
    found = OfflineRun(folder)
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= _items(record.run.config.update)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
        elif kind == "preempting":
            found.is_preempted = True
        elif kind in ("artifact", "request"):
            is_artifact = kind == "artifact"
            found.artifacts += [record.artifact] if is_artifact else []
    return found


def offline_runs(run_folder: Path) -> list[OfflineRun]:
    """Returns the starts of a run, oldest first."""
    # A finished run's last block is written by W&B's process when it pleases, at its end at last.
    wandb.teardown()
    folders = (run_folder / "wandb").glob("*run-*-*")
    return [read_offline(f) for f in sorted(folders, key=lambda f: f.name.partition("run-")[2])]


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
