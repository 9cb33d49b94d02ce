"""Where each shard begins in the input files: made in one pass that checks every row.

A shard is a fixed range of rows over all files in order, so its content depends on nothing but
these rows. With the index any process finds its first row without reading what is before it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from embedllm.data.record_lines import Place
from embedllm.data.schema import Problem
from embedllm.encoding.row_files import EncodingRow, RowFile
from embedllm.encoding.shards import ShardFolder
from embedllm.errors import DataError
from embedllm.log import get_logger
from embedllm.progress import progress_bar

_log = get_logger(__name__)

_MAX_SHOWN_BAD_ROWS: Final = 5
_REPORT_EVERY_ROWS: Final = 4096
_POLL_SECONDS: Final = 0.5
_MB: Final = 1_000_000


@dataclass(frozen=True)
class RecordIndex:
    """What the pass over the input found.

    Attributes:
        shard_rows: Rows of every shard but the last.
        num_rows: Rows in all files together.
        num_bad_rows: Rows among them that are encoded as empty sentences.
        id_type: `row` (numbers), `int64` or `text`; the same in all shards.
        starts: Per shard the file, by its place in the input, and the place in it: offset, line.
    """

    shard_rows: int
    num_rows: int
    num_bad_rows: int
    id_type: str
    starts: list[tuple[int, int, int]]

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.starts)

    def rows_of(self, shard: int) -> range:
        """Returns the rows of a shard, counted over all files."""
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, self.num_rows))


@dataclass(frozen=True)
class ShardInput:
    """What a shard is made of.

    Attributes:
        texts: The sentences; bad rows are empty.
        ids: One for each; row numbers, whole numbers or texts.
    """

    texts: list[str]
    ids: list[int] | list[str]


def read_shard(files: Sequence[RowFile], index: RecordIndex, shard: int) -> ShardInput:
    """Returns the rows of a shard; reads nothing of a text file but them.

    Raises:
        DataError: A file cannot be read or has been changed.
    """
    first, offset, line = index.starts[shard]
    wanted = index.rows_of(shard)
    texts: list[str] = []
    ids: list[int | str] = []
    with closing(_iter_rows(files[first:], Place(offset, line))) as rows:
        for _, row in islice(rows, len(wanted)):
            texts.append("" if isinstance(row.text, Problem) else row.text)
            if index.id_type != "row":
                assert isinstance(row.row_id, int | str)
                ids.append(row.row_id)
    if len(texts) < len(wanted):
        raise DataError("the input has fewer rows than before; encode it to another output folder")
    if index.id_type == "row":
        return ShardInput(texts, list(wanted))
    if index.id_type == "int64":
        return ShardInput(texts, [int(value) for value in ids])
    return ShardInput(texts, [str(value) for value in ids])


def _iter_rows(
    files: Sequence[RowFile], start: Place | None = None
) -> Generator[tuple[int, EncodingRow], None, None]:
    """Yields the number of the file and the row, from a place in the first file on."""
    for number, file in enumerate(files):
        with closing(file.rows(start if number == 0 else None)) as rows:
            for row in rows:
                yield number, row


def build_index(
    files: Sequence[RowFile],
    *,
    shard_rows: int,
    on_bad_row: str,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> RecordIndex:
    """Returns the index after reading all files once.

    Args:
        files: The input in order.
        shard_rows: Rows of a shard.
        on_bad_row: `error`, or `empty` to count rows without a readable sentence and warn.
        on_bytes: Gets the number of bytes read since its last call.

    Raises:
        DataError: A file cannot be read, there is no row at all, a row is bad and `on_bad_row`
            is `error`, or a row has no readable id.
    """
    starts: list[tuple[int, int, int]] = []
    num_rows = 0
    bad = _BadRows(on_bad_row)
    are_integers = True
    before = list(_offsets(files))
    seen = 0
    for number, row in _iter_rows(files):
        if num_rows % shard_rows == 0:
            starts.append((number, *row.place))
        if num_rows % _REPORT_EVERY_ROWS == 0:
            position = before[number] + files[number].to_bytes(row.place)
            on_bytes(position - seen)
            seen = position
        num_rows += 1
        if isinstance(row.text, Problem) or isinstance(row.row_id, Problem):
            bad.add(files[number], row)
        are_integers = are_integers and isinstance(row.row_id, int)
    on_bytes(before[-1] - seen)
    if not num_rows:
        raise DataError(f"input={files[0].path}: no row to encode in {len(files)} file(s)")
    bad.report(num_rows)
    has_ids = any(file.columns.row_id is not None for file in files)
    id_type = ("int64" if are_integers else "text") if has_ids else "row"
    return RecordIndex(shard_rows, num_rows, bad.number, id_type, starts)


def _offsets(files: Sequence[RowFile]) -> Iterator[int]:
    """Yields for each file, and at the end, how many bytes come before."""
    total = 0
    for file in files:
        yield total
        total += file.size
    yield total


class _BadRows:
    """Counts bad rows and shows the first ones."""

    def __init__(self, on_bad_row: str) -> None:
        self.number = 0
        self._on_bad_row = on_bad_row
        self._shown: list[str] = []

    def add(self, file: RowFile, row: EncodingRow) -> None:
        """Counts a row; one without an id is an error at once, for nothing could name it."""
        self.number += 1
        problem = row.text if isinstance(row.text, Problem) else row.row_id
        assert isinstance(problem, Problem)
        if len(self._shown) < _MAX_SHOWN_BAD_ROWS:
            self._shown.append(f"\n  {file.describe(row.place, problem)}")
        if self._on_bad_row == "empty" and isinstance(row.row_id, Problem):
            raise DataError(
                f"{file.describe(row.place, row.row_id)}. on_bad_row=empty stands in for a "
                "sentence and not for an id; mend the row, or leave out id_column to number rows"
            )

    def report(self, num_rows: int) -> None:
        """Raises or warns, as `on_bad_row` asks; silent without bad rows."""
        if not self.number:
            return
        more = "\n  ..." if self.number > len(self._shown) else ""
        summary = f"{self.number} of {num_rows} rows are bad:{''.join(self._shown)}{more}"
        if any("is not UTF-8" in text for text in self._shown):
            summary += "\nText must be UTF-8: convert the file, for example with `iconv -t UTF-8`."
        if self._on_bad_row == "error":
            raise DataError(
                f"{summary}\nMend them, or set on_bad_row=empty to encode them as empty sentences."
            )
        _log.warning("%s\nThey are encoded as empty sentences (on_bad_row=empty).", summary)


# --- Kept on disk ------------------------------------------------------------------------------


def load_or_build_index(
    path: Path,
    files: Sequence[RowFile],
    folder: ShardFolder,
    *,
    shard_rows: int,
    on_bad_row: str,
) -> RecordIndex:
    """Returns the index in a file, made by this process or, while it waits, by another one.

    Args:
        path: The file; its name must say of which input it is.
        files: The input in order.
        folder: The output folder, for the lock.
        shard_rows: Rows of a shard.
        on_bad_row: As in `build_index`.

    Raises:
        DataError: As `build_index`.
        CheckpointError: The disk is full or the folder cannot be written.
    """
    has_said_so = False
    while (index := read_index(path)) is None:
        with folder.lock("index") as is_mine:
            if is_mine:
                index = read_index(path) or _build_with_progress(files, shard_rows, on_bad_row)
                folder.write_json(path, asdict(index))
                return index
        if not has_said_so:
            _log.info("waiting for another process, which reads the input")
        has_said_so = True
        time.sleep(_POLL_SECONDS)
    return index


def read_index(path: Path) -> RecordIndex | None:
    """Returns a kept index, None when there is none or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["starts"] = [(int(f), int(o), int(n)) for f, o, n in values["starts"]]
        index = RecordIndex(**values)
        is_whole = index.num_shards == math.ceil(index.num_rows / index.shard_rows)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return index if is_whole else None


def _build_with_progress(files: Sequence[RowFile], shard_rows: int, on_bad_row: str) -> RecordIndex:
    total = sum(file.size for file in files)
    done = 0
    with progress_bar("checking the input", total=math.ceil(total / _MB), unit="MB") as advance:

        def on_bytes(count: int) -> None:
            nonlocal done
            before, done = done // _MB, done + count
            if done // _MB > before:
                advance(done // _MB - before)

        return build_index(files, shard_rows=shard_rows, on_bad_row=on_bad_row, on_bytes=on_bytes)
