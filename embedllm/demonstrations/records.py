"""Text fields of CSV files with a header and of JSON lines, with the line of what is wrong."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from embedllm.errors import DataError

SUFFIXES = (".csv", ".jsonl")
"""Kinds of files that can be read; case does not matter."""


class Record(NamedTuple):
    """One row.

    Attributes:
        line: Line on which the row starts, counted from 1.
        fields: Column name to text. In JSON lines a field that is null is left out.
    """

    line: int
    fields: Mapping[str, str]

    def text(self, column: str, path: Path, *, key: str) -> str:
        """Returns a field that has to be there; no white space is taken away.

        Raises:
            DataError: The field is missing or blank, or holds half a character.
        """
        value = self.fields.get(column, "")
        if not value.strip():
            raise malformed(path, self.line, f"{column!r} is empty", key=key)
        # JSON can spell a lone surrogate, which neither tokenizers nor UTF-8 know.
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise malformed(path, self.line, f"{column!r} holds half a character", key=key)
        return value


def read_records(path: Path, required: tuple[str, ...], *, key: str) -> list[Record]:
    """Returns the rows of a file, blank lines left out.

    Args:
        path: CSV file with a header (any quoting that the csv module reads) or JSON lines with
            one object of texts each. UTF-8, with or without a byte order mark.
        required: Columns that the file must have.
        key: Config key that names the file, for messages.

    Raises:
        DataError: The file cannot be read, is of another kind, is not UTF-8, is malformed, lacks
            a column or has no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{key}={path}: allowed are files that end in {' or '.join(SUFFIXES)}")
    text = read_text(path, key=key)
    read = _read_csv if suffix == ".csv" else _read_json_lines
    records = list(read(text, path, required, key))
    if not records:
        raise DataError(f"{key}={path}: the file has no rows")
    return records


def read_text(path: Path, *, key: str) -> str:
    """Returns the content of a UTF-8 file, line ends as they are.

    Raises:
        DataError: The file cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except OSError as error:
        raise DataError(
            f"{key}={path}: cannot be read ({error.strerror or type(error).__name__})"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{key}={path}: is not UTF-8 (byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}); convert it, for example with `iconv -t UTF-8`"
        ) from error


def malformed(path: Path, line: int, found: str, *, key: str) -> DataError:
    """Returns the error for a row; `found` says what is wrong with it."""
    return DataError(f"{path}, line {line}: {found}; mend it or set {key} to another file")


def _read_csv(text: str, path: Path, required: tuple[str, ...], key: str) -> Iterator[Record]:
    # newline="" leaves line ends inside quoted fields as they are.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    end = 0
    try:
        for cells in reader:
            line, end = end + 1, reader.line_num
            if not cells:
                continue
            if not header:
                header = cells
                _check_columns(header, required, path, key)
            elif len(cells) != len(header):
                found = f"{len(cells)} fields, the header has {len(header)}"
                raise malformed(path, line, found, key=key)
            else:
                yield Record(line, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise malformed(path, end + 1, f"is not valid CSV ({error})", key=key) from error


def _check_columns(header: list[str], required: tuple[str, ...], path: Path, key: str) -> None:
    missing = [column for column in required if column not in header]
    if missing:
        raise DataError(
            f"{key}={path}: no column {', '.join(map(repr, missing))}; the header has "
            f"{', '.join(map(repr, header))}"
        )
    if len(set(header)) != len(header):
        raise DataError(f"{key}={path}: a column name occurs twice in {header}")


def _read_json_lines(
    text: str, path: Path, required: tuple[str, ...], key: str
) -> Iterator[Record]:
    # Not splitlines, which also cuts at characters that JSON allows inside a text.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise malformed(path, line, f"is not valid JSON ({error})", key=key) from error
        if not isinstance(value, dict):
            found = f"is a JSON {type(value).__name__}, expected an object"
            raise malformed(path, line, found, key=key)
        for column in required:
            if column not in value:
                raise malformed(path, line, f"has no field {column!r}", key=key)
            if not isinstance(value[column], str):
                raise malformed(path, line, f"{column!r} is no text", key=key)
        yield Record(line, {name: field for name, field in value.items() if isinstance(field, str)})
