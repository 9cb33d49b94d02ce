"""Vectors on disk, so that an interrupted evaluation goes on and no text is encoded twice.

A vector is filed under what the model really reads and really is, not under names that could be
given to something else later:

- the file's name is a hash of everything but the text: a checksum over the bits of every weight
  (base and adapter), the architecture, the adapter's settings, type, pooling, layer, device and
  library versions;
- the key in the file is a hash of the finished prompt's token ids, which hold prompt, clean-up,
  tokenizer and sentence.

SQLite keeps the file whole when a process is killed, and several processes may write at once.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from embedllm.errors import CheckpointError
from embedllm.files import free_space
from embedllm.log import get_logger
from embedllm.models.embedder import Embedder
from embedllm.models.whole import whole_weight
from embedllm.prompts.tokenize import Row
from embedllm.versions import library_versions

_log = get_logger(__name__)

_TIMEOUT_SECONDS = 60.0
_LOOKUP_SIZE = 500  # SQLite's oldest limit of variables in one statement is 999
_FORMAT = 1
WRITE_EVERY_SECONDS = 5.0
"""What a killed evaluation loses at most."""


class VectorCache:
    """The vectors of one encoder state.

    Args:
        path: The file; made when it does not exist.

    Raises:
        CheckpointError: The file is damaged or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._as_error():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._connect() as connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB)"
                )
        self._is_writable = True

    @classmethod
    def of(cls, embedder: Embedder, folder: Path) -> VectorCache:
        """Returns the cache of an embedder in its present state."""
        return cls(folder / f"{fingerprint_embedder(embedder)}.sqlite")

    def read(self, token_ids: Sequence[Sequence[int]]) -> dict[int, np.ndarray]:
        """Returns the vectors that are there, by row, each float32 [D]."""
        keys = [_key_of(ids) for ids in token_ids]
        found: dict[bytes, np.ndarray] = {}
        with self._as_error(), self._connect() as connection:
            for start in range(0, len(keys), _LOOKUP_SIZE):
                part = keys[start : start + _LOOKUP_SIZE]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"
                for key, blob in connection.execute(query, part):
                    found[key] = np.frombuffer(blob, dtype="<f4")
        return {row: found[key] for row, key in enumerate(keys) if key in found}

    def write(self, token_ids: Iterable[Sequence[int]], vectors: np.ndarray) -> None:
        """Adds vectors, float32 [N, D]. A full disk is reported once and costs no evaluation."""
        if not self._is_writable:
            return
        rows = [
            (_key_of(ids), vector.astype("<f4").tobytes())
            for ids, vector in zip(token_ids, vectors, strict=True)
        ]
        try:
            with self._connect() as connection:
                connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._is_writable = False
            _log.warning(
                "vectors can no longer be kept in %s (%s, %s); the evaluation goes on without. "
                "Make room, set paths.cache_dir to another disk or evaluation.cache_vectors=false",
                self.path,
                error,
                free_space(self.path),
            )

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Yields a writer that writes every few seconds and at the end, also after an error."""
        writer = Writer(self)
        try:
            yield writer
        finally:
            writer.flush()

    def __len__(self) -> int:
        with self._as_error(), self._connect() as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM vectors").fetchone()
        return int(count)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection whose changes are committed at the end of the block."""
        connection = sqlite3.connect(self.path, timeout=_TIMEOUT_SECONDS)
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    @contextmanager
    def _as_error(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise CheckpointError(
                f"the vector cache {self.path} cannot be used: {error} ({free_space(self.path)}). "
                "Make room or delete that file, set paths.cache_dir to another folder, or "
                "evaluation.cache_vectors=false"
            ) from error


class Writer:
    """Gathers vectors, so that a transaction is made every few seconds and not for every pack.

    Args:
        cache: Where they go.
    """

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache
        self._token_ids: list[Sequence[int]] = []
        self._vectors: list[np.ndarray] = []
        self._last = time.monotonic()

    def add(self, token_ids: Sequence[Sequence[int]], vectors: np.ndarray) -> None:
        """Takes vectors, float32 [N, D]."""
        self._token_ids.extend(token_ids)
        self._vectors.append(vectors)
        if time.monotonic() - self._last >= WRITE_EVERY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what was gathered."""
        if self._vectors:
            self._cache.write(self._token_ids, np.concatenate(self._vectors))
        self._token_ids, self._vectors = [], []
        self._last = time.monotonic()


def fingerprint_embedder(embedder: Embedder) -> str:
    """Returns a hash of everything but the text that decides a vector."""
    trunk = cast(Any, embedder.trunk)
    adapters = getattr(trunk, "peft_config", None)
    description = {
        "format": _FORMAT,
        "weights": checksum_weights(trunk),
        "architecture": _without_names(trunk.config.to_dict()),
        "adapters": {name: config.to_dict() for name, config in (adapters or {}).items()},
        "embedder": embedder.settings(),
        "device": next(trunk.parameters()).device.type,
        "versions": library_versions(),
    }
    text = json.dumps(description, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@torch.no_grad()
def checksum_weights(module: nn.Module) -> str:
    """Returns a hash over the bits of all parameters and buffers, and of quantised weights' scales.

    Bits are summed as integers, plainly and weighted by position, in arithmetic that wraps
    around. Such sums are exact, whatever the order, the device or the number of threads, and
    cost one pass over the memory. Where ranks hold parts of the weights, all have to ask for it.
    """
    digest = hashlib.sha256()
    # A quantised weight's scales are neither parameters nor buffers, but layers save them too.
    saved = {
        name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)
    }
    tensors = saved | dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in sorted(tensors.items()):
        tensor = whole_weight(tensor) if isinstance(tensor, nn.Parameter) else tensor
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(f"{_sum_bits(tensor)};".encode())
    return digest.hexdigest()


_CHUNK = 1 << 22


def _sum_bits(tensor: Tensor) -> tuple[int, int]:
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().contiguous().view(-1).view(views[tensor.element_size()])
    plain = weighted = 0
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK].long()
        places = torch.arange(start + 1, start + 1 + len(part), device=part.device)
        plain += int(part.sum())
        # An odd multiplier spreads neighbouring places, so that swapped values do not cancel.
        weighted += int((part * (places * 0x9E3779B1 | 1)).sum())
    return plain % 2**64, weighted % 2**64


def _without_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config without what says where it came from or who wrote it."""
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key != "transformers_version"
    }


def _key_of(token_ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.asarray(token_ids, dtype="<i8").tobytes(), digest_size=16).digest()


def to_key(row: Row) -> list[int]:
    """Returns what a vector is filed under: the ids, and the pooled part where it is not all."""
    if (row.start, row.stop) == (0, len(row.ids)):
        return row.ids
    return [*row.ids, -1, row.start, row.stop]
