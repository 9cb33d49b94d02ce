"""Rows of CSV files and of JSON lines, with the line, column and byte of what is wrong.

No format goes through pandas, which would turn the texts `None`, `NA` or `nan` into missing
values.
"""

from __future__ import annotations

import codecs
import csv
import json
import operator
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import BinaryIO

from embedllm.data.records import Row, Table, choose_columns
from embedllm.data.schema import MISSING, ColumnNames, Problem, find_negatives
from embedllm.errors import DataError

# JSON lines have no header: the columns are the keys of this many rows together.
_NUM_HEAD_ROWS = 1000


class _Lines:
    """Feeds decoded lines to `csv.reader` and keeps the bytes of the record being read.

    Undecodable bytes become surrogates, so that a wrong encoding damages single cells, which
    can be named, and not the reading of the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._again: deque[bytes] = deque()
        self._record: list[bytes] = []
        self.line = 1
        self._offset = _skip_byte_order_mark(file)
        self.is_decodable = True

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._again.popleft() if self._again else next(self._file)
        self._record.append(raw)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.is_decodable = False
            return raw.decode("utf-8", "surrogateescape")

    def start_record(self) -> None:
        """Moves `line` to the first line that is not part of the record just read."""
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
        return _describe_bad_byte(b"".join(self._record), self._offset)


def _skip_byte_order_mark(file: BinaryIO) -> int:
    """Leaves `file` behind a UTF-8 byte order mark, if any, and returns the position."""
    return file.seek(len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0)


def _describe_bad_byte(raw: bytes, offset: int) -> str:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start} of the file"
        return f"is not UTF-8 ({where})"
    raise AssertionError("only called for bytes that do not decode")


def _has_bad_bytes(text: str) -> bool:
    """Tells whether `text`, decoded with surrogateescape, came from undecodable bytes."""
    return any("\udc80" <= char <= "\udcff" for char in text)


def _iter_csv_records(lines: _Lines, delimiter: str) -> Iterator[list[str] | Problem]:
    """Yields the cells of each record that is not blank, or why it is not CSV."""
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


def read_csv(file: BinaryIO, name: str, *, delimiter: str, chosen: ColumnNames | None) -> Table:
    """Returns the columns and rows of a CSV file with a header.

    Args:
        file: The file, open and at its start.
        name: The path as the user gave it, for messages.
        delimiter: What separates cells.
        chosen: The columns to read, or None to recognize the layout.

    Raises:
        DataError: The file is empty, or its header is damaged or has no usable columns.
    """
    lines = _Lines(file)
    records = _iter_csv_records(lines, delimiter)
    header = next(records, None)
    if header is None:
        raise DataError(f"data.path={name}: the file is empty")
    if not lines.is_decodable:
        reason = lines.describe_bad_byte()
        raise DataError(f"{name}:{lines.line}: the header {reason}; save the file as UTF-8")
    if isinstance(header, Problem):
        raise DataError(f"{name}:{lines.line}: the header {header.reason}")
    columns = choose_columns(name, header, chosen)
    if chosen is None and "negatives" in columns.negatives:
        raise DataError(
            f"{name}: a CSV cell holds one text, but the column 'negatives' stands for a list; "
            "name it 'negative', or set data.columns.negatives=[negatives] to read it as one text"
        )
    return Table(columns, _iter_csv_rows(lines, records, header, columns))


def _iter_csv_rows(
    lines: _Lines,
    records: Iterator[list[str] | Problem],
    header: list[str],
    columns: ColumnNames,
) -> Iterator[Row]:
    pick = operator.itemgetter(*map(header.index, columns.in_order))
    for cells in records:
        if isinstance(cells, Problem):
            yield lines.line, cells
        elif not lines.is_decodable:
            bad = (name for name, cell in zip(header, cells, strict=False) if _has_bad_bytes(cell))
            yield lines.line, Problem(next(bad, None), lines.describe_bad_byte())
        elif len(cells) != len(header):
            yield lines.line, Problem(None, f"has {len(cells)} cells, the header {len(header)}")
        else:
            yield lines.line, pick(cells)


# --- JSON lines --------------------------------------------------------------------------------


def _iter_json_records(file: BinaryIO) -> Iterator[tuple[int, dict[str, object] | Problem]]:
    """Yields line number and object of each line that is not blank, or why it is no object."""
    offset = _skip_byte_order_mark(file)
    for line, raw in enumerate(file, start=1):
        if not raw.isspace():
            yield line, _parse_json_line(raw, offset)
        offset += len(raw)


def _parse_json_line(raw: bytes, offset: int) -> dict[str, object] | Problem:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Problem(_find_bad_key(raw), _describe_bad_byte(raw, offset))
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
    bad = (key for key, value in items if _has_bad_bytes(json.dumps(value, ensure_ascii=False)))
    return next(bad, None)


def read_json_lines(file: BinaryIO, name: str, *, chosen: ColumnNames | None) -> Table:
    """Returns the columns and rows of a file with one JSON object a line.

    Args:
        file: The file, open and at its start.
        name: The path as the user gave it, for messages.
        chosen: The columns to read, or None to recognize the layout.

    Raises:
        DataError: The file is empty, or its first rows have no usable columns.
    """
    records = _iter_json_records(file)
    head = list(islice(records, _NUM_HEAD_ROWS))
    if not head:
        raise DataError(f"data.path={name}: the file is empty")
    names = list(dict.fromkeys(key for _, row in head if isinstance(row, dict) for key in row))
    if not names:
        line, row = head[0]
        reason = row.reason if isinstance(row, Problem) else "has no columns"
        raise DataError(
            f"{name}: none of the first {len(head)} lines is a JSON object with columns; first: "
            f"{name}:{line}: {reason}; text files must be UTF-8"
        )
    columns = choose_columns(name, names, chosen)
    known = set(names) if chosen is None else None
    return Table(columns, _iter_json_rows(chain(head, records), columns, known))


def _iter_json_rows(
    records: Iterable[tuple[int, dict[str, object] | Problem]],
    columns: ColumnNames,
    known: set[str] | None,
) -> Iterator[Row]:
    """Yields rows; a negative that only rows after the head have is a problem, not dropped."""
    names = columns.in_order
    for line, record in records:
        if isinstance(record, Problem):
            yield line, record
            continue
        late = find_negatives([k for k in record if k not in known]) if known is not None else ()
        if late:
            reason = f"is in none of the first {_NUM_HEAD_ROWS} rows; set data.columns.negatives"
            yield line, Problem(late[0], reason)
        else:
            yield line, [record.get(column, MISSING) for column in names]
