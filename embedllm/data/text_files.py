"""Rows of CSV files and of JSON lines, with the line, column and byte of what is wrong.

No format goes through pandas, which would turn the texts `None`, `NA` or `nan` into missing
values.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import BinaryIO

from embedllm.data.record_lines import (
    Lines,
    Place,
    find_csv_problem,
    iter_csv_records,
    iter_json_records,
)
from embedllm.data.records import Row, Table, choose_columns
from embedllm.data.schema import MISSING, ColumnNames, Problem, find_negatives
from embedllm.errors import DataError

# JSON lines have no header: the columns are the keys of this many rows together.
_NUM_HEAD_ROWS = 1000


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
    lines = Lines(file)
    records = iter_csv_records(lines, delimiter)
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
    lines: Lines,
    records: Iterator[list[str] | Problem],
    header: list[str],
    columns: ColumnNames,
) -> Iterator[Row]:
    pick = operator.itemgetter(*map(header.index, columns.in_order))
    for cells in records:
        if isinstance(cells, Problem):
            yield lines.line, cells
        else:
            yield lines.line, find_csv_problem(lines, header, cells) or pick(cells)


# --- JSON lines --------------------------------------------------------------------------------


def read_json_lines(file: BinaryIO, name: str, *, chosen: ColumnNames | None) -> Table:
    """Returns the columns and rows of a file with one JSON object a line.

    Args:
        file: The file, open and at its start.
        name: The path as the user gave it, for messages.
        chosen: The columns to read, or None to recognize the layout.

    Raises:
        DataError: The file is empty, or its first rows have no usable columns.
    """
    records = iter_json_records(file)
    head = list(islice(records, _NUM_HEAD_ROWS))
    if not head:
        raise DataError(f"data.path={name}: the file is empty")
    names = list(dict.fromkeys(key for _, row in head if isinstance(row, dict) for key in row))
    if not names:
        (_, line), row = head[0]
        reason = row.reason if isinstance(row, Problem) else "has no columns"
        raise DataError(
            f"{name}: none of the first {len(head)} lines is a JSON object with columns; first: "
            f"{name}:{line}: {reason}; text files must be UTF-8"
        )
    columns = choose_columns(name, names, chosen)
    known = set(names) if chosen is None else None
    return Table(columns, _iter_json_rows(chain(head, records), columns, known))


def _iter_json_rows(
    records: Iterable[tuple[Place, dict[str, object] | Problem]],
    columns: ColumnNames,
    known: set[str] | None,
) -> Iterator[Row]:
    """Yields rows; a negative that only rows after the head have is a problem, not dropped."""
    names = columns.in_order
    for (_, line), record in records:
        if isinstance(record, Problem):
            yield line, record
            continue
        late = find_negatives([k for k in record if k not in known]) if known is not None else ()
        if late:
            reason = f"is in none of the first {_NUM_HEAD_ROWS} rows; set data.columns.negatives"
            yield line, Problem(late[0], reason)
        else:
            yield line, [record.get(column, MISSING) for column in names]
