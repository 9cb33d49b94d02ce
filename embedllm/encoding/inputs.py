"""Configuration to input files: patterns, formats, and what identifies the files."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from embedllm.config import EncodeConfig
from embedllm.encoding.parquet_rows import ParquetRows
from embedllm.encoding.row_files import Columns, CsvRows, JsonRows, RowFile, TextRows, TsvRows
from embedllm.errors import DataError

_FORMATS: Final[dict[str, type[RowFile]]] = {
    "text": TextRows,
    "csv": CsvRows,
    "tsv": TsvRows,
    "jsonl": JsonRows,
    "parquet": ParquetRows,
}
_FORMAT_BY_SUFFIX: Final = {
    ".txt": "text",
    ".text": "text",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


def open_inputs(config: EncodeConfig) -> list[RowFile]:
    """Returns the input files in order, their headers read and their columns checked.

    Raises:
        DataError: A file is missing, unreadable, of no known format, named twice, in the output
            folder, or without the columns.
    """
    paths = find_files(config.inputs)
    output = Path(config.output).expanduser().resolve()
    for path in paths:
        # A pattern would find the shards, and a second call would encode them.
        if path.resolve().is_relative_to(output):
            raise DataError(f"input={path} lies in output={config.output}; choose another folder")
    columns = Columns(config.text_column, config.id_column)
    return [_open(path, config.input_format, columns) for path in paths]


def find_files(names: Sequence[str]) -> list[Path]:
    """Returns the files behind names and patterns; those of a pattern in order of their names.

    Raises:
        DataError: A name is no file, a pattern matches none, or a file comes twice.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        # A file is itself, also where its name could be read as a pattern.
        if path.is_file() or not glob.has_magic(name):
            found.append(_to_file(path))
            continue
        # Path.glob takes no absolute pattern and would find hidden files.
        matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
        files = [match for match in matches if match.is_file()]
        if not files:
            raise DataError(f"input={name}: no file matches (looked at {path.absolute()})")
        found += files
    seen: set[Path] = set()
    for path in found:
        if path.resolve() in seen:
            raise DataError(f"input names {path} twice; leave one of them out")
        seen.add(path.resolve())
    return found


def describe_inputs(files: Sequence[RowFile]) -> dict[str, Any]:
    """Returns what identifies the files, in order: path, size and time of the last change."""
    return {
        str(file.path.absolute()): {
            "place": place,
            "bytes": file.size,
            "modified_ns": file.modified_ns,
        }
        for place, file in enumerate(files)
    }


def _to_file(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"input={path} is a folder; give its files, for example {path}/*.jsonl")
    if not path.exists():
        raise DataError(f"input={path}: no such file (looked at {path.absolute()})")
    return path


def _open(path: Path, name: str, columns: Columns) -> RowFile:
    kind = _FORMAT_BY_SUFFIX.get(path.suffix.lower()) if name == "auto" else name
    if kind is None:
        raise DataError(
            f"input={path}: no format is known by {path.suffix or 'a name without an ending'!r}; "
            f"known are {', '.join(_FORMAT_BY_SUFFIX)}, or set input_format to one of "
            f"{', '.join(_FORMATS)}"
        )
    if kind == "text" and columns.row_id is not None:
        raise DataError(
            f"input={path} is a text file, which has no columns: id_column={columns.row_id} has "
            "no place; leave it out to number the rows"
        )
    return _FORMATS[kind](path, columns)
