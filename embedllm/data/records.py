"""What every reader of training data gives: the columns it reads and a stream of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedllm.data.schema import ColumnNames, Problem, resolve_columns
from embedllm.errors import DataError
from embedllm.log import get_logger

logger = get_logger(__name__)

FILE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Kinds of files that can be read; case does not matter."""

Row = tuple[int, Sequence[object] | Problem]
"""Where a row is, counted from 1, and its values or why it has none."""


@dataclass(frozen=True, slots=True)
class Table:
    """A source that has been opened; its rows can be taken once, while the file is open."""

    columns: ColumnNames
    """The columns that are read."""
    rows: Iterator[Row]
    """The rows, values in the order of `columns.in_order`."""


def choose_columns(source: str, names: Sequence[str], chosen: ColumnNames | None) -> ColumnNames:
    """Returns the columns to read and logs what is left unread.

    Args:
        source: Path or dataset name as the user gave it, for messages.
        names: All columns of the source.
        chosen: The explicit choice of the configuration, or None to recognize a layout.

    Raises:
        DataError: See `resolve_columns`; the message begins with the source.
    """
    try:
        columns = resolve_columns(names, columns=chosen)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    unread = [column for column in names if column not in columns.in_order]
    logger.info("%s: reading %s, leaving %s", source, columns.in_order, unread)
    if chosen is None and (suspects := [c for c in unread if "neg" in c.lower()]):
        logger.warning(
            "%s: columns %s are not read; list them in data.columns.negatives if they are hard "
            "negatives",
            source,
            suspects,
        )
    return columns
