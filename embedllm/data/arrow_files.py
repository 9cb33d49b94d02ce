"""Rows of Parquet files and of datasets, local or on the hub.

pyarrow and `datasets` are imported where used: CSV and JSON lines need neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from embedllm.data.records import FILE_SUFFIXES, Row, Table, choose_columns
from embedllm.data.schema import ColumnNames, Unreadable
from embedllm.errors import DataError
from embedllm.hub import ask_in_time, is_switched_off
from embedllm.secrets import redact

_BATCH_ROWS = 1024


def read_parquet(file: BinaryIO, name: str, *, chosen: ColumnNames | None) -> Table:
    """Returns the columns and rows of a Parquet file.

    Args:
        file: The file, open; it must stay open until the last row is taken.
        name: The path as the user gave it, for messages.
        chosen: The columns to read, or None to recognize the layout.

    Raises:
        DataError: The file is damaged (here or at a row), or has no usable columns.
    """
    import pyarrow.parquet as pq

    with as_data_error(f"data.path={name}"):
        parquet = pq.ParquetFile(file)
        columns = choose_columns(name, parquet.schema_arrow.names, chosen)
        batches = parquet.iter_batches(
            batch_size=_BATCH_ROWS, columns=list(dict.fromkeys(columns.in_order))
        )
    return Table(columns, _iter_parquet_rows(batches, columns, name))


@contextmanager
def as_data_error(source: str) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file into one message that begins with `source`."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise DataError(f"{source}: not a whole Parquet file ({error})") from error


def _iter_parquet_rows(batches: Iterable[Any], columns: ColumnNames, name: str) -> Iterator[Row]:
    # Batches are decoded one by one, so damage in the middle shows only here.
    with as_data_error(f"data.path={name}"):
        yield from _iter_arrow_rows(batches, columns)


def _iter_arrow_rows(batches: Iterable[Any], columns: ColumnNames) -> Iterator[Row]:
    """Yields the rows of record batches or tables (`Any`: pyarrow has no type information)."""
    line = 0
    for batch in batches:
        values = [to_values(batch.column(name)) for name in columns.in_order]
        for row in zip(*values, strict=True):
            line += 1
            yield line, row


def to_values(array: Any) -> list[object]:
    """Converts an Arrow column; texts that are not UTF-8, which Arrow lets pass, are marked."""
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        return [_to_value(scalar) for scalar in array]


def _to_value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return Unreadable(f"is not UTF-8 (byte 0x{byte:02x} at offset {error.start} of the text)")


def read_dataset(
    name: str,
    *,
    split: str,
    subset: str | None,
    revision: str | None = None,
    chosen: ColumnNames | None,
) -> Table:
    """Returns the columns and rows of a dataset, downloading it on first use.

    Args:
        name: Folder or hub name.
        split: Split, slices such as `train[:1%]` included.
        subset: Configuration of the dataset, or None for its only one.
        revision: Branch, tag or commit on the hub.
        chosen: The columns to read, or None to recognize the layout.

    Raises:
        DataError: The dataset cannot be loaded or has no usable columns.
    """
    import datasets

    try:
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
        # Datasets stored as CSV go through pandas inside `datasets`; this keeps `None` and `NA`.
        has_csv = hasattr(builder.config, "keep_default_na")
        extra = {"keep_default_na": False} if has_csv else {}
        dataset = datasets.load_dataset(name, subset, split=split, revision=revision, **extra)
    except Exception as error:  # the library documents no common base of its errors
        raise DataError(
            f"dataset {name} could not be loaded with data.subset={subset}, data.split={split}, "
            f"data.revision={revision}: {type(error).__name__}: {redact(str(error))}. Check these "
            "keys and data.path; with HF_HUB_OFFLINE set, only datasets downloaded before can be "
            "read."
        ) from error
    columns = choose_columns(name, dataset.column_names, chosen)
    used = dataset.select_columns(list(dict.fromkeys(columns.in_order))).with_format("arrow")
    return Table(columns, _iter_arrow_rows(used.iter(batch_size=_BATCH_ROWS), columns))


def probe_hub(name: str, revision: str | None) -> str | None:
    """Returns the commit of hub dataset `name`, or None when the hub is switched off.

    `load_dataset` retries an unreachable hub for 23 s when names do not resolve and for minutes
    when a firewall drops packets (10 s for each of six tries and each address).

    Raises:
        DataError: The hub does not answer in `hub.TIMEOUT_SECONDS` or does not have the dataset.
    """
    import datasets
    from huggingface_hub import HfApi

    if is_switched_off() or datasets.config.HF_HUB_OFFLINE:
        return None
    api = HfApi()
    try:
        return ask_in_time(lambda: api.dataset_info(name, revision=revision, timeout=10).sha)
    except Exception as error:  # the library documents no common base of its errors
        raise DataError(
            f"data.path={name} is no local file or folder (looked at {Path(name).absolute()}), and "
            f"the hub at {redact(api.endpoint)} did not give a dataset of that name: "
            f"{type(error).__name__}: {redact(str(error))}. Set data.path to a file "
            f"({', '.join(FILE_SUFFIXES)}), a folder or a dataset that exists and that you may "
            "read; without network, set HF_HUB_OFFLINE=1 to use a dataset downloaded before."
        ) from error
