"""Shards on disk: whole or absent, claimed by one, read back; blocks, ranges and memory."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from encode_files import open_files, write_input
from hypothesis import given, settings
from hypothesis import strategies as st

from embedllm.encoding import read_shards, shards
from embedllm.encoding.index import build_index
from embedllm.encoding.manifest import Manifest, read_manifest
from embedllm.encoding.shards import ShardFolder, to_id_array
from embedllm.encoding.work import FLOAT16_MAX, ShardWorker, encode_in_blocks
from embedllm.errors import CheckpointError, ConfigError, ModelError
from embedllm.models.encoder import SentenceEncoder
from embedllm.ranks import Rank

KINDS = [(suffix, dtype) for suffix in ("npy", "parquet") for dtype in ("float32", "float16")]


@dataclass
class StandIn:
    """Gives each text numbers that follow from it, and notes what it was asked for."""

    width: int = 4
    factor: float = 1.0
    tokens_per_batch: int = 4
    has_memory: bool = True
    asked: list[list[str]] = field(default_factory=list)
    embedder: Any = field(
        default_factory=lambda: SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]))
    )

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if self.has_memory:
            self.asked.append(list(texts))
        return np.stack([vector_of(text, self.width) for text in texts]) * np.float32(self.factor)


def vector_of(text: str, width: int = 4) -> np.ndarray:
    first = sum(map(ord, text)) * 7 + len(text) * 3
    return ((first + np.arange(width)) % 101).astype(np.float32) / np.float32(8)


def make_folder(root: Path, suffix: str = "npy", dtype: str = "float32") -> ShardFolder:
    folder = ShardFolder(root, suffix=suffix, dtype=dtype)
    folder.make()
    return folder


def settings_of(folder: ShardFolder, **others: Any) -> dict[str, Any]:
    return {"output": {"format": folder.suffix, "dtype": folder.dtype.name}, **others}


def make_worker(
    tmp_path: Path, texts: Sequence[str], encoder: StandIn, *, shard_rows: int = 3, **options: Any
) -> ShardWorker:
    path = tmp_path / "x.txt"
    if not path.exists():
        write_input(path, texts)
    files = open_files(path)
    folder = make_folder(tmp_path / "output", **options)
    return ShardWorker(
        lambda: cast(SentenceEncoder, encoder),
        files,
        build_index(files, shard_rows=shard_rows, on_bad_row="error"),
        folder,
        Manifest(folder, settings_of(folder), command=["encode"]),
        Rank(),
    )


# --- Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
@pytest.mark.parametrize("ids", [[5, -7, 2**40], ["a", "", "\u00e9\U0001f600"]])
def test_shards_come_back(suffix: str, dtype: str, ids: list[Any], tmp_path: Path) -> None:
    folder = make_folder(tmp_path, suffix, dtype)
    manifest = Manifest(folder, settings_of(folder), command=[])
    vectors = np.arange(12).reshape(3, 4).astype(dtype)
    id_array = to_id_array(ids, "text" if isinstance(ids[0], str) else "int64")
    for shard in (1, 0):
        folder.write(shard, id_array, vectors + vectors.dtype.type(shard))
    manifest.note(num_shards=2)
    found = list(read_shards(tmp_path))
    assert [shard.ids.tolist() for shard in found] == [ids, ids]
    assert [shard.vectors.dtype for shard in found] == [np.dtype(dtype)] * 2
    for number, shard in enumerate(found):
        assert np.array_equal(shard.vectors, vectors + vectors.dtype.type(number))
    if suffix == "npy":
        assert isinstance(found[0].vectors, np.memmap)
    else:
        schema = pq.read_schema(folder.vectors_path(0))
        assert schema.names == ["id", "vector"]
        assert schema.field("vector").type.list_size == 4


def test_an_unfinished_folder_is_not_read_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        read_shards(tmp_path)
    folder = make_folder(tmp_path)
    manifest = Manifest(folder, settings_of(folder), command=[])
    with pytest.raises(CheckpointError, match="0 of an unknown number of shards"):
        read_shards(tmp_path)
    manifest.note(num_shards=3)
    folder.write(2, np.arange(2), np.ones((2, 4), np.float32))
    with pytest.raises(CheckpointError, match="1 of 3 shards are there"):
        read_shards(tmp_path)
    [shard] = read_shards(tmp_path, allow_missing=True)
    assert shard.ids.tolist() == [0, 1]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_is_one_message_and_leaves_no_half_shard(
    suffix: str, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, suffix)
    folder.write(0, np.arange(2), np.ones((2, 4), np.float32))
    calls = 0
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(shards.os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space.*output") as caught:
        for shard in (1, 2):
            folder.write(shard, np.arange(2), np.ones((2, 4), np.float32))
    assert "shards that are there stay" in str(caught.value)
    # Ids come first, so the vectors of a shard whose ids failed were not even tried.
    expected = {0, 1} if suffix == "parquet" and failing == 2 else {0}
    assert folder.list_there() == expected
    assert not list(folder.work.glob("*.new"))


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_damage_is_seen(suffix: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, suffix)
    folder.write(0, np.arange(5), np.ones((5, 4), np.float32))
    assert folder.is_intact(0, 5)
    assert not folder.is_intact(0, 6)
    path = folder.vectors_path(0)
    content = path.read_bytes()
    for cut in (b"", content[:40], content[:-8]):
        path.write_bytes(cut)
        assert not folder.is_intact(0, 5)
    path.write_bytes(content)
    assert folder.is_intact(0, 5)
    if suffix == "npy":
        folder.ids_path(0).unlink()
        assert not folder.is_intact(0, 5)


def test_a_shard_is_claimed_by_one(tmp_path: Path) -> None:
    folder, other = make_folder(tmp_path), make_folder(tmp_path)
    with folder.claimed(0) as first, other.claimed(0) as second, other.claimed(1) as third:
        assert (first, second, third) == (True, False, True)
    with other.claimed(0) as again:
        assert again
        other.write(0, np.arange(1), np.ones((1, 4), np.float32))
    # Nobody needs the lock of a finished shard.
    assert [path.name for path in (folder.work / "locks").iterdir()] == ["00001"]


# --- Manifest -----------------------------------------------------------------------------------


def test_shards_bind_a_folder_to_its_settings(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    Manifest(folder, settings_of(folder, a={"b": 1, "c": [1]}), command=["x"])
    # Nothing is lost yet.
    Manifest(folder, settings_of(folder, a={"b": 2, "c": [1]}), command=["y"])
    folder.write(0, np.arange(1), np.ones((1, 4), np.float32))
    with pytest.raises(CheckpointError, match=r"another call \(a\.b: was 2, is 3; a\.c: was \[1\]"):
        Manifest(folder, settings_of(folder, a={"b": 3, "c": []}), command=[])
    manifest = Manifest(folder, settings_of(folder, a={"b": 2, "c": [1]}), command=["z"])
    saved = read_manifest(tmp_path)
    assert saved is not None
    assert saved["command"] == ["y"]
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds vectors but no manifest\.json"):
        Manifest(folder, settings_of(folder), command=[])
    with pytest.raises(CheckpointError, match="taken over"):
        manifest.check_is_ours()
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        Manifest(folder, settings_of(folder), command=[])


def test_a_folder_taken_over_is_not_written_to(tmp_path: Path) -> None:
    encoder = StandIn()
    worker = make_worker(tmp_path, ["a", "b"], encoder)
    Manifest(worker.folder, settings_of(worker.folder, other=1), command=[])
    with pytest.raises(CheckpointError, match="taken over by another call"):
        worker.make([0])
    assert worker.folder.list_there() == set()


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    manifest = Manifest(folder, settings_of(folder), command=[])
    manifest.note_weights("first")
    Manifest(folder, settings_of(folder), command=[]).note_weights("second")
    # A process that still has the first ones finds out before it adds a shard.
    with pytest.raises(CheckpointError, match="other weights"):
        manifest.check_is_ours()
    folder.write(0, np.arange(1), np.ones((1, 4), np.float32))
    Manifest(folder, settings_of(folder), command=[]).note_weights("second")
    with pytest.raises(CheckpointError, match="other weights under the same name"):
        Manifest(folder, settings_of(folder), command=[]).note_weights("third")


# --- Blocks -------------------------------------------------------------------------------------


@given(
    texts=st.lists(st.text("ab", max_size=3), min_size=1, max_size=60),
    tokens_per_batch=st.sampled_from([1, 2, 5]),
)
@settings(max_examples=60, deadline=None)
def test_each_distinct_text_is_encoded_once_and_lands_in_its_row(
    texts: list[str], tokens_per_batch: int
) -> None:
    encoder = StandIn(tokens_per_batch=tokens_per_batch)
    counts: list[int] = []
    found = encode_in_blocks(
        cast(SentenceEncoder, encoder), texts, dtype=np.dtype("float32"), on_rows=counts.append
    )
    assert np.array_equal(found, np.stack([vector_of(text) for text in texts]))
    assert [text for block in encoder.asked for text in block] == list(dict.fromkeys(texts))
    assert sum(counts) == len(texts)
    most = 32 * 4 * tokens_per_batch // 64 + 1
    assert max(map(len, encoder.asked)) <= most
    if len(set(texts)) > most:
        assert len(encoder.asked) > 1


@pytest.mark.parametrize(
    ("factor", "dtype", "error", "message"),
    [
        (1e5, "float16", ConfigError, r"float16 ends at 65504; set dtype=float32"),
        (float("inf"), "float32", ModelError, r"model\.dtype=float32"),
        (float("nan"), "float16", ModelError, r"model\.dtype=float32"),
    ],
)
def test_no_infinite_number_is_written(
    factor: float, dtype: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    encoder = StandIn(factor=factor)
    worker = make_worker(tmp_path, ["aa", "b", "c", "d"], encoder, dtype=dtype)
    with pytest.raises(error, match=message):
        worker.make([0, 1])
    assert worker.folder.list_there() == set()


def test_the_largest_number_of_float16_is_written() -> None:
    encoder = StandIn()
    encoder.encode = lambda texts: np.full((len(texts), 2), FLOAT16_MAX, np.float32)  # type: ignore[method-assign]
    found = encode_in_blocks(cast(SentenceEncoder, encoder), ["a"], dtype=np.dtype("float16"))
    assert found.tolist() == [[FLOAT16_MAX, FLOAT16_MAX]]
    assert np.isfinite(found).all()


# --- Work ---------------------------------------------------------------------------------------


def test_only_missing_and_damaged_shards_are_made(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(10)]
    encoder = StandIn()
    worker = make_worker(tmp_path, texts, encoder)
    assert worker.missing() == [0, 1, 2, 3]
    worker.make([0, 2])
    assert worker.missing() == [1, 3]
    worker.folder.vectors_path(2).write_bytes(b"half")
    assert worker.missing() == [1, 2, 3]
    encoder.asked.clear()
    worker.make(worker.missing())
    assert sorted(text for block in encoder.asked for text in block) == texts[3:]
    worker.manifest.note(num_shards=4)
    found = np.concatenate([shard.vectors for shard in read_shards(tmp_path / "output")])
    assert np.array_equal(found, np.stack([vector_of(text) for text in texts]))
    assert worker.missing() == []


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Python's and numpy's memory; the whole process is measured by the slow test."""
    peaks = []
    for num_shards in (3, 30):
        folder = tmp_path / str(num_shards)
        folder.mkdir()
        texts = [f"{'words ' * 30}{i}" for i in range(num_shards * 200)]
        encoder = StandIn(width=512, tokens_per_batch=256, has_memory=False)
        worker = make_worker(folder, texts, encoder, shard_rows=200)
        del texts
        tracemalloc.start()
        worker.make(worker.missing())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(worker.folder.list_there()) == num_shards
    # The vectors of 27 shards more are 11 MB.
    assert peaks[1] < peaks[0] + 200_000, peaks
