"""Rows of one Parquet file, read forward from any row and never held."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Final

from embedllm.data.arrow_files import as_data_error, to_values
from embedllm.data.record_lines import Place
from embedllm.encoding.row_files import Columns, EncodingRow, RowFile

_BATCH_ROWS: Final = 1024
# Without it pyarrow holds all pages of a column of a row group, and a file can be one group.
_READ_BYTES: Final = 1 << 20


class ParquetRows(RowFile):
    """A Parquet file; a place in it is a row, counted from 0 as offset and from 1 as line.

    Row groups are where reading can start. Writers choose their size, and a file can be a single
    one, so the reader stays open and goes on when the next shard lies ahead: reading all shards
    in order reads the file once.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self._batches: _Batches | None = None
        super().__init__(path, columns)

    def to_bytes(self, place: Place) -> int:
        """Returns about how far into the file a row is."""
        return self.size * place.offset // max(self._starts[-1], 1)

    def _open(self, file: BinaryIO) -> Place:
        import pyarrow.parquet as pq

        with as_data_error(f"input={self.path}"):
            parquet = pq.ParquetFile(file)
            self._refuse_columns(parquet.schema_arrow.names)
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        self._starts: list[int] = [0, *accumulate(int(group.num_rows) for group in groups)]
        return Place(0, 1)

    def _rows(self, file: BinaryIO, start: Place) -> Iterator[EncodingRow]:
        with as_data_error(f"input={self.path}"):
            for first, batch in self._batches_from(start.offset):
                text, row_id = self.columns
                texts = to_values(batch.column(text))
                ids = texts if row_id is None else to_values(batch.column(row_id))
                for i in range(max(start.offset - first, 0), len(texts)):
                    value = {text: texts[i]} if row_id is None else {text: texts[i], row_id: ids[i]}
                    yield self._to_row(Place(first + i, first + i + 1), value)

    def _batches_from(self, row: int) -> Iterator[tuple[int, Any]]:
        """Yields the batches from the one with `row` on, each with the number of its first row."""
        if row >= self._starts[-1]:
            return
        group = bisect_right(self._starts, row) - 1
        batches = self._batches
        if batches is None or not self._starts[group] <= batches.first <= row:
            names = list(dict.fromkeys(name for name in self.columns if name is not None))
            batches = _Batches(self.path, names, group=group, first=self._starts[group])
            self._batches = batches
        while (batch := batches.current()) is not None:
            if batches.first + len(batch) > row:
                yield batches.first, batch
            batches.advance()
        self._batches = None


class _Batches:
    """Batches from one row group on; the current one stays until the next is asked for.

    Attributes:
        first: Number of the current batch's first row.
    """

    def __init__(self, path: Path, names: list[str], *, group: int, first: int) -> None:
        import pyarrow.parquet as pq

        self.first = first
        parquet = pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES)
        groups = range(group, parquet.num_row_groups)
        self._rest = parquet.iter_batches(
            batch_size=_BATCH_ROWS, row_groups=groups, columns=names, use_threads=False
        )
        self._current: Any = None

    def current(self) -> Any:
        """Returns the current record batch, None behind the last."""
        if self._current is None:
            self._current = next(self._rest, None)
        return self._current

    def advance(self) -> None:
        """Makes the next batch the current one."""
        self.first += len(self._current)
        self._current = None
