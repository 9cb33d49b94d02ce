"""Rows of one input file, read forward from any place and never held: text, CSV and JSON lines.

Parquet is in `parquet_rows`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, NamedTuple

from embedllm.data.record_lines import (
    Lines,
    Place,
    describe_bad_byte,
    find_csv_problem,
    first_place,
    iter_csv_records,
    iter_json_records,
)
from embedllm.data.schema import MISSING, Problem, Unreadable, find_text_fault
from embedllm.errors import DataError

# A JSONL file without the column in this many objects has another name for it.
_NUM_HEAD_ROWS: Final = 1000
_MAX_ID_CHARS: Final = 1024
_INT64: Final = range(-(2**63), 2**63)


class Columns(NamedTuple):
    """Which columns are read."""

    text: str
    row_id: str | None = None


class EncodingRow(NamedTuple):
    """A row as it stands in the file."""

    place: Place
    text: str | Problem
    row_id: int | str | Problem | None
    """None without an id column."""


class RowFile(ABC):
    """One input file.

    Args:
        path: The file.
        columns: Columns to read; a text file has none.

    Raises:
        DataError: The file cannot be read, or has not the columns.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        with self.as_data_error():
            status = path.stat()
            self.size = status.st_size
            self.modified_ns = status.st_mtime_ns
            with path.open("rb") as file:
                self.start = self._open(file)

    def rows(self, start: Place | None = None) -> Generator[EncodingRow, None, None]:
        """Yields the rows from a place on, which must be that of a row; default all rows.

        Raises:
            DataError: The file cannot be read or has been changed since it was opened first.
        """
        with self.as_data_error():
            status = self.path.stat()
            if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
                raise DataError(
                    f"input={self.path} has been changed while it was read; start again with "
                    "another output folder"
                )
            with self.path.open("rb") as file:
                yield from self._rows(file, start or self.start)

    def to_bytes(self, place: Place) -> int:
        """Returns how far into the file a place is."""
        return place.offset

    def describe(self, place: Place, problem: Problem) -> str:
        """Returns where a bad row is, and what is wrong with it."""
        column = "" if problem.column is None else f"column {problem.column!r} "
        return f"{self.path}:{place.line}: {column}{problem.reason}"

    @contextmanager
    def as_data_error(self) -> Iterator[None]:
        """Turns a file that the system cannot read into one message."""
        try:
            yield
        except OSError as error:
            raise DataError(f"input={self.path}: cannot be read ({error})") from error

    def _open(self, file: BinaryIO) -> Place:
        """Checks the columns and returns the place of the first row."""
        return first_place(file)

    @abstractmethod
    def _rows(self, file: BinaryIO, start: Place) -> Iterator[EncodingRow]:
        """Yields the rows from a place on."""

    def _refuse_columns(self, names: list[str]) -> None:
        """Raises unless each column to read is there once."""
        for key, name in (
            ("text_column", self.columns.text),
            ("id_column", self.columns.row_id),
        ):
            if name is not None and (count := names.count(name)) != 1:
                problem = f"occurs {count} times" if count else "is not there"
                found = ", ".join(repr(n if len(n) <= 40 else f"{n[:40]}...") for n in names[:50])
                raise DataError(
                    f"input={self.path}: the column {key}={name} {problem}; columns found: "
                    f"{found or 'none'}"
                )

    def _to_row(self, place: Place, values: Mapping[str, object]) -> EncodingRow:
        """Returns a row from its values by column."""
        text, row_id = self.columns
        return EncodingRow(
            place,
            to_text(values.get(text, MISSING), text),
            None if row_id is None else to_row_id(values.get(row_id, MISSING), row_id),
        )

    def _to_bad_row(self, place: Place, problem: Problem) -> EncodingRow:
        """Returns a row that could not be read; its id is bad too, where there should be one."""
        return EncodingRow(place, problem, None if self.columns.row_id is None else problem)


class TextRows(RowFile):
    """One sentence a line; only a line feed, or one with a carriage return, ends a line."""

    def _rows(self, file: BinaryIO, start: Place) -> Iterator[EncodingRow]:
        offset, line = start
        file.seek(offset)
        for raw in file:
            text: str | Problem
            try:
                text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError:
                text = Problem(None, describe_bad_byte(raw, offset))
            yield EncodingRow(Place(offset, line), text, None)
            offset += len(raw)
            line += 1


class CsvRows(RowFile):
    """CSV with a header; blank lines are no rows."""

    delimiter: ClassVar[str] = ","

    def _open(self, file: BinaryIO) -> Place:
        lines = Lines(file)
        header = next(iter_csv_records(lines, self.delimiter), None)
        if header is None:
            raise DataError(f"input={self.path}: the file is empty, it has not even a header")
        if not lines.is_decodable:
            header = Problem(None, f"{lines.describe_bad_byte()}; save the file as UTF-8")
        if isinstance(header, Problem):
            raise DataError(f"{self.path}:{lines.line}: the header {header.reason}")
        self._refuse_columns(header)
        self._header = header
        lines.start_record()
        return lines.place

    def _rows(self, file: BinaryIO, start: Place) -> Iterator[EncodingRow]:
        lines = Lines(file, start)
        for cells in iter_csv_records(lines, self.delimiter):
            if isinstance(cells, Problem):
                yield self._to_bad_row(lines.place, cells)
            elif problem := find_csv_problem(lines, self._header, cells):
                yield self._to_bad_row(lines.place, problem)
            else:
                yield self._to_row(lines.place, dict(zip(self._header, cells, strict=True)))


class TsvRows(CsvRows):
    """The same with tabs between the cells."""

    delimiter = "\t"


class JsonRows(RowFile):
    """One JSON object a line; blank lines are no rows."""

    def _open(self, file: BinaryIO) -> Place:
        start = first_place(file)
        objects = [
            record
            for _, record in islice(iter_json_records(file, start), _NUM_HEAD_ROWS)
            if isinstance(record, dict)
        ]
        names = list(dict.fromkeys(key for record in objects for key in record))
        if objects:
            self._refuse_columns(names)
        return start

    def _rows(self, file: BinaryIO, start: Place) -> Iterator[EncodingRow]:
        for place, record in iter_json_records(file, start):
            if isinstance(record, Problem):
                yield self._to_bad_row(place, record)
            else:
                yield self._to_row(place, record)


def to_text(value: object, column: str) -> str | Problem:
    """Returns a value that is text, an empty one too, or why it is none."""
    fault = find_text_fault(value)
    if fault is None:
        assert isinstance(value, str)
        return value
    return Problem(column, fault)


def to_row_id(value: object, column: str) -> int | str | Problem:
    """Returns a value that is an id, a text or a whole number, or why it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value in _INT64 else Problem(column, "does not fit into 64 bits")
    if fault := find_text_fault(value):
        is_other_type = value is not None and not isinstance(value, str | Unreadable)
        return Problem(column, f"{fault} or a whole number" if is_other_type else fault)
    assert isinstance(value, str)
    if len(value) > _MAX_ID_CHARS:
        return Problem(column, f"has {len(value)} characters, an id at most {_MAX_ID_CHARS}")
    # An array of texts pads with these, so they would not come back.
    return Problem(column, "ends in a NUL character") if value.endswith("\0") else value
