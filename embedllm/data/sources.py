"""Reads contrastive training data from CSV, JSON lines, Parquet and hub datasets.

Every source becomes a `Table`, a stream of (line, values) rows, in `text_files` or `arrow_files`.
`to_example` judges each row and `_collect` counts and reports the bad ones, so that all formats
treat a bad row alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from embedllm.data.arrow_files import probe_hub, read_dataset, read_parquet
from embedllm.data.records import FILE_SUFFIXES, Table
from embedllm.data.schema import ColumnNames, Example, Problem, to_example
from embedllm.data.text_files import read_csv, read_json_lines
from embedllm.errors import ConfigError, DataError
from embedllm.log import get_logger

logger = get_logger(__name__)

MAX_KEPT_BAD_ROWS = 20
MAX_SHOWN_BAD_ROWS = 5


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no example, and where it is; `str()` gives `file:line: what is wrong`."""

    source: str
    """Path or dataset name as the user gave it."""
    line: int
    """Physical line on which the record starts (text files) or row (Parquet, hub), from 1."""
    column: str | None
    """Column at fault, or None when the row as a whole is."""
    reason: str
    """Verb phrase, for example `is empty`."""

    def __str__(self) -> str:
        column = "" if self.column is None else f"column {self.column!r} "
        return f"{self.source}:{self.line}: {column}{self.reason}"


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What `read_examples` found."""

    examples: list[Example]
    """The good rows, in source order."""
    num_rows: int
    """Rows read, good and bad, without header and blank lines."""
    num_bad: int
    """Bad rows among them."""
    bad_rows: list[BadRow]
    """The first 20 bad rows."""
    sha256: str
    """Files: hash of the whole file. Datasets: hash of the examples, one JSON list of texts a
    line, because a dataset's own fingerprint changes with every download."""
    columns: ColumnNames
    """The columns that were read."""
    revision: str | None = None
    """Commit of a hub dataset as the hub reports it; None for files, folders and offline use."""


@dataclass(frozen=True, slots=True)
class _Options:
    """How rows are read, the same for every source."""

    columns: ColumnNames | None
    on_bad_row: Literal["fail", "skip"]
    max_examples: int | None

    def __post_init__(self) -> None:
        if self.on_bad_row not in ("fail", "skip"):
            raise ConfigError(f"data.on_bad_row={self.on_bad_row!r}, allowed are fail and skip")
        if self.max_examples is not None and self.max_examples < 1:
            raise ConfigError(f"data.max_examples={self.max_examples}, allowed are null and >= 1")


def read_examples(
    path_or_name: str | Path,
    *,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    columns: ColumnNames | None = None,
    on_bad_row: Literal["fail", "skip"] = "fail",
    max_examples: int | None = None,
) -> ReadResult:
    """Returns the training examples of a local file, a local dataset folder or a hub dataset.

    Works on one process and does not communicate; every rank that calls it reads for itself.

    Args:
        path_or_name: File (`.csv`, `.tsv`, `.jsonl`, `.json` with one object a line,
            `.parquet`), folder that the `datasets` library understands, or hub dataset name.
        split: Split of a dataset, slices such as `train[:1%]` included; no effect on files.
        subset: Configuration of a dataset, such as `triplet`; no effect on files.
        revision: Branch, tag or commit of a hub dataset; no effect on files and folders.
        columns: The columns to read, or None to recognize the layout.
        on_bad_row: `fail` raises after all rows were checked, `skip` warns and leaves them out.
        max_examples: Stop after this many good rows; what follows is not checked.

    Raises:
        DataError: The source is missing, unreachable, damaged, empty, has no usable columns, or
            has bad rows and `on_bad_row` is `fail`.
        ConfigError: `on_bad_row` or `max_examples` is out of range.
    """
    options = _Options(columns, on_bad_row, max_examples)
    name = str(path_or_name)
    if not name.strip():
        raise DataError("data.path is empty; give a file, a folder or a hub dataset name")
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise DataError(f"data.path={name}: cannot be read ({error})") from error
    if is_file:
        _warn_without_effect(name, split=split, subset=subset, revision=revision)
        return _read_file(path, name, options)
    if is_folder:
        table = read_dataset(str(path), split=split, subset=subset, chosen=columns)
        return _collect(table, str(path), options)
    if path.suffix.lower() in FILE_SUFFIXES or path.is_absolute() or _is_no_hub_name(name):
        raise DataError(f"data.path={name}: no such file or folder (looked at {path.absolute()})")
    commit = probe_hub(name, revision)
    table = read_dataset(name, split=split, subset=subset, revision=revision, chosen=columns)
    return _collect(table, name, options, revision=commit)


def _is_no_hub_name(name: str) -> bool:
    """Hub names are `dataset` or `owner/dataset`; anything else can only be a local path."""
    return name.startswith((".", "~")) or name.count("/") > 1


def _warn_without_effect(name: str, *, split: str, **unused: str | None) -> None:
    given = [f"data.{key}={value}" for key, value in unused.items() if value is not None]
    given += [f"data.split={split}"] if split != "train" else []
    if given:
        logger.warning("%s is a file: no effect of %s", name, ", ".join(given))


def _read_file(path: Path, name: str, options: _Options) -> ReadResult:
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise DataError(
            f"data.path={name}: unknown kind of file {suffix!r}, allowed are "
            + ", ".join(FILE_SUFFIXES)
        )
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            table = _open_table(file, name, suffix, options.columns)
            # The rows are read from the open file, so they are taken before it is closed.
            return _collect(table, name, options, sha256=sha256)
    except OSError as error:
        raise DataError(f"data.path={name}: cannot be read ({error})") from error


def _open_table(file: BinaryIO, name: str, suffix: str, chosen: ColumnNames | None) -> Table:
    if suffix == ".parquet":
        return read_parquet(file, name, chosen=chosen)
    if suffix in (".jsonl", ".json"):
        return read_json_lines(file, name, chosen=chosen)
    return read_csv(file, name, delimiter="\t" if suffix == ".tsv" else ",", chosen=chosen)


def _collect(
    table: Table,
    name: str,
    options: _Options,
    *,
    sha256: str | None = None,
    revision: str | None = None,
) -> ReadResult:
    """Returns the result for all rows, after failing or warning about the bad ones."""
    examples: list[Example] = []
    bad_rows: list[BadRow] = []
    num_rows = num_bad = 0
    names = table.columns.in_order
    for line, values in table.rows:
        num_rows += 1
        row = values if isinstance(values, Problem) else to_example(values, names)
        if isinstance(row, Problem):
            num_bad += 1
            if len(bad_rows) < MAX_KEPT_BAD_ROWS:
                bad_rows.append(BadRow(name, line, row.column, row.reason))
            continue
        examples.append(row)
        if len(examples) == options.max_examples:
            break
    _report(name, num_rows, num_bad, bad_rows, options)
    if not examples:
        raise DataError(f"data.path={name}: no examples, only a header or no rows at all")
    return ReadResult(
        examples=examples,
        num_rows=num_rows,
        num_bad=num_bad,
        bad_rows=bad_rows,
        sha256=sha256 or _hash_examples(examples),
        columns=table.columns,
        revision=revision,
    )


def _report(
    name: str, num_rows: int, num_bad: int, bad_rows: Sequence[BadRow], options: _Options
) -> None:
    """Raises or warns about bad rows, as `data.on_bad_row` asks; silent when there are none."""
    if not num_bad:
        return
    shown = "".join(f"\n  {row}" for row in bad_rows[:MAX_SHOWN_BAD_ROWS])
    more = "\n  ..." if num_bad > MAX_SHOWN_BAD_ROWS else ""
    summary = f"{num_bad} of {num_rows} rows of {name} are bad:{shown}{more}"
    if any("is not UTF-8" in row.reason for row in bad_rows):
        summary += "\nText must be UTF-8: convert the file, for example with `iconv -t UTF-8`."
    if num_bad == num_rows:
        raise DataError(f"{summary}\nNo row is usable; check data.path and data.columns.")
    if options.on_bad_row == "fail":
        raise DataError(f"{summary}\nMend them, or set data.on_bad_row=skip to leave them out.")
    logger.warning("%s\nThey are left out (data.on_bad_row=skip).", summary)


def _hash_examples(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        line = json.dumps([example.anchor, example.positive, *example.negatives]) + "\n"
        digest.update(line.encode("ascii"))
    return digest.hexdigest()
