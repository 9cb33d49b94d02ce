"""Token ids of many texts in one file: made once, memory-mapped ever after.

The file is little-endian int32 throughout: the ids of all texts one behind the other, then how
many each text has, then the SHA-256 of both. Nothing in it needs parsing, so a damaged file can
do no harm before its checksum is known, and a text's ids are a slice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from embedllm.files import free_space
from embedllm.log import get_logger
from embedllm.progress import progress_bar

_log = get_logger(__name__)

_CHUNK_TEXTS = 4096
_INT = np.dtype("<i4")
_DIGEST_INTS = hashlib.sha256().digest_size // _INT.itemsize

Tokenize = Callable[[Sequence[str]], list[list[int]]]


class TokenTable:
    """The token ids of distinct texts.

    Args:
        texts: N distinct texts.
        ids: Ids of all texts, one behind the other, int32 [T].
        lengths: How many of them each text has, int32 [N].
    """

    def __init__(self, texts: Sequence[str], ids: np.ndarray, lengths: np.ndarray) -> None:
        self._row_of = {text: row for row, text in enumerate(texts)}
        self._ids = ids
        self._borders = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self._row_of)

    def look_up(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns what tokenizing these texts would; all must be in the table. Any thread may."""
        rows = np.fromiter((self._row_of[text] for text in texts), dtype=np.int64)
        borders = zip(self._borders[rows].tolist(), self._borders[rows + 1].tolist(), strict=True)
        return [self._ids[start:stop].tolist() for start, stop in borders]


def open_token_table(texts: Iterable[str], tokenize: Tokenize, path: Path | None) -> TokenTable:
    """Returns the token ids of all texts, from a file where it is there, else made and kept in it.

    Each distinct text is tokenized once. Processes that start together wait for the first of
    them. Where the file cannot be kept, the ids are in memory, and a warning says so.

    Args:
        texts: Texts, repetitions allowed.
        tokenize: Texts to their ids, at least one each.
        path: The file; its name must stand for the distinct texts in their order and for
            whatever else decides the ids. None to do without.
    """
    distinct = list(dict.fromkeys(texts))
    if path is not None:
        try:
            return TokenTable(distinct, *_read_or_make(path, distinct, tokenize))
        except OSError as error:
            _log.warning(
                "the token ids of the training texts cannot be kept in %s (%s, %s); they stay in "
                "memory and the next run tokenizes again. Make room, or set paths.cache_dir to a "
                "folder that can be written",
                path.parent,
                error,
                free_space(path),
            )
    ids, lengths = zip(*_tokenize_in_chunks(distinct, tokenize), strict=True)
    return TokenTable(distinct, np.concatenate(ids), np.concatenate(lengths))


def _read_or_make(
    path: Path, texts: Sequence[str], tokenize: Tokenize
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and lengths, memory-mapped.

    Raises:
        OSError: The file can be neither read nor made.
    """
    arrays = _read(path, num_texts=len(texts))
    if arrays is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claim(path.with_suffix(".lock")):
            # Another process may have made it in the meantime.
            arrays = _read(path, num_texts=len(texts))
            if arrays is None:
                _write(path, _tokenize_in_chunks(texts, tokenize))
                _log.info("token ids of %d texts are kept in %s", len(texts), path)
                arrays = _read(path, num_texts=len(texts))
        if arrays is None:
            raise OSError(f"{path} does not hold what was written to it")
    else:
        _log.info("token ids of %d texts are read from %s", len(texts), path)
    return arrays


def _read(path: Path, *, num_texts: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns ids and lengths; None without a file, or with a damaged one, which is deleted."""
    try:
        # A plain view: slicing `memmap` itself costs several times as much.
        content = np.memmap(path, dtype=_INT, mode="r").view(np.ndarray)
    except FileNotFoundError:
        return None
    except ValueError:  # no byte, or no whole number of integers
        content = np.empty(0, dtype=_INT)
    body, digest = content[:-_DIGEST_INTS], content[-_DIGEST_INTS:]
    if hashlib.sha256(body.data).digest() == digest.tobytes():
        return body[:-num_texts], body[-num_texts:]
    _log.warning("%s is damaged; the training texts are tokenized again", path)
    with suppress(OSError):
        path.unlink()
    return None


def _claim(path: Path) -> AbstractContextManager[Any]:
    """Returns a lock that is held; it goes with the process, also when that is killed."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _log.info("another process is tokenizing the same texts; waiting for it (%s)", path)
        return lock.acquire()


def _write(path: Path, chunks: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes the file beside its place and renames it; the caller holds the lock."""
    # The name is always the same, so a killed process leaves one such file at most.
    work = path.with_suffix(".part")
    digest = hashlib.sha256()
    all_lengths = []
    try:
        with work.open("wb") as file:
            for ids, lengths in chunks:
                all_lengths.append(lengths)
                file.write(ids.data)
                digest.update(ids.data)
            for lengths in all_lengths:
                file.write(lengths.data)
                digest.update(lengths.data)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


def _tokenize_in_chunks(
    texts: Sequence[str], tokenize: Tokenize
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields ids and lengths of a few thousand texts: as lists of numbers all would be large."""
    with progress_bar("tokenizing", total=len(texts), unit="texts") as advance:
        for start in range(0, len(texts), _CHUNK_TEXTS):
            rows = tokenize(texts[start : start + _CHUNK_TEXTS])
            lengths = np.array([len(row) for row in rows], dtype=_INT)
            yield np.concatenate([np.array(row, dtype=_INT) for row in rows]), lengths
            advance(len(rows))
