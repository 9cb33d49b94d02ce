"""Records of CSV files and of JSON lines as they stand in the file, from any place in it.

What a record means is for the reader to say: `text_files` makes training examples of them, and
`encoding` sentences. A file is read forward and never held, so its size does not matter.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from embedllm.data.schema import Problem


class Place(NamedTuple):
    """Where a record begins."""

    offset: int
    """Bytes before it."""
    line: int
    """Number of its first line, from 1."""


def first_place(file: BinaryIO) -> Place:
    """Leaves `file` behind a UTF-8 byte order mark, if any, and returns that place."""
    file.seek(0)
    return Place(file.seek(len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0), 1)


class Lines:
    """Feeds decoded lines to `csv.reader` and keeps the bytes of the record being read.

    Undecodable bytes become surrogates, so that a wrong encoding damages single cells, which
    can be named, and not the reading of the file.

    Args:
        file: The file, open.
        start: A place at which a record begins; default the file's first.
    """

    def __init__(self, file: BinaryIO, start: Place | None = None) -> None:
        self._file = file
        self._again: deque[bytes] = deque()
        self._record: list[bytes] = []
        if start is None:
            start = first_place(file)
        self._offset, self.line = file.seek(start.offset), start.line
        self.is_decodable = True

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        raw = self._again.popleft() if self._again else next(self._file)
        self._record.append(raw)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.is_decodable = False
            return raw.decode("utf-8", "surrogateescape")

    @property
    def place(self) -> Place:
        """Where the current record begins."""
        return Place(self._offset, self.line)

    def start_record(self) -> None:
        """Moves `place` to the first line that is not part of the record just read."""
        self.line += len(self._record)
        self._offset += sum(map(len, self._record))
        self._record.clear()
        self.is_decodable = True

    def give_back_all_but_first(self) -> None:
        """Makes the lines after the first of the current record be read again."""
        self._again.extendleft(reversed(self._record[1:]))
        del self._record[1:]

    def describe_bad_byte(self) -> str:
        """Says which byte of the current record is the first that is not UTF-8."""
        return describe_bad_byte(b"".join(self._record), self._offset)


def describe_bad_byte(raw: bytes, offset: int) -> str:
    """Says which byte of `raw`, which lies at `offset` in its file, is not UTF-8."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start} of the file"
        return f"is not UTF-8 ({where})"
    raise AssertionError("only called for bytes that do not decode")


def has_bad_bytes(text: str) -> bool:
    """Tells whether `text`, decoded with surrogateescape, came from undecodable bytes."""
    return any("\udc80" <= char <= "\udcff" for char in text)


def iter_csv_records(lines: Lines, delimiter: str) -> Iterator[list[str] | Problem]:
    """Yields the cells of each record that is not blank, or why it is not CSV.

    `lines.place` is that of the record just yielded.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # A quote that is never closed swallows good rows: only its own line is given up.
            lines.give_back_all_but_first()
            yield Problem(None, f"is not valid CSV, check quotes and line ends ({error})")
            continue
        if cells:
            yield cells


def find_csv_problem(lines: Lines, header: list[str], cells: list[str]) -> Problem | None:
    """Returns what is wrong with the record just read, apart from what its cells say."""
    if not lines.is_decodable:
        bad = (name for name, cell in zip(header, cells, strict=False) if has_bad_bytes(cell))
        return Problem(next(bad, None), lines.describe_bad_byte())
    if len(cells) != len(header):
        return Problem(None, f"has {len(cells)} cells, the header {len(header)}")
    return None


def iter_json_records(
    file: BinaryIO, start: Place | None = None
) -> Iterator[tuple[Place, dict[str, object] | Problem]]:
    """Yields place and object of each line that is not blank, or why it is no object.

    Args:
        file: The file, open.
        start: The beginning of a line; default that of the file.
    """
    offset, first_line = start or first_place(file)
    file.seek(offset)
    for line, raw in enumerate(file, start=first_line):
        if not raw.isspace():
            yield Place(offset, line), _parse_json_line(raw, offset)
        offset += len(raw)


def _parse_json_line(raw: bytes, offset: int) -> dict[str, object] | Problem:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Problem(_find_bad_key(raw), describe_bad_byte(raw, offset))
    except (ValueError, RecursionError) as error:
        return Problem(None, f"is not valid JSON ({error})")
    if not isinstance(record, dict):
        return Problem(None, f"is a JSON {type(record).__name__}, expected one object a line")
    return record


def _find_bad_key(raw: bytes) -> str | None:
    """Returns the first key of a JSON line whose value does not decode, if that can be told."""
    try:
        record = json.loads(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    items = record.items() if isinstance(record, dict) else ()
    bad = (key for key, value in items if has_bad_bytes(json.dumps(value, ensure_ascii=False)))
    return next(bad, None)
