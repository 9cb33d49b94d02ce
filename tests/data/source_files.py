"""Writers of small training files in every format, and what the tests compare."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedllm.data.sources import ReadResult, read_examples

HEADER = ["sent0", "sent1", "hard_neg"]
NASTY_ROWS = [
    ["None", "NA", "nan"],
    ["null", "N/A", "NaN"],
    ["1", "2.5", "True"],
    ['said "hi", left', "two\nlines", "a\r\nb\rc"],
    [" leading", "trailing ", "\ttab"],
    ["na\u00efve caf\u00e9", "\u65e5\u672c\u8a9e", "\U0001f600 \u2028 end"],
]


def write_csv(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def write_jsonl(path: Path, rows: list[list[str]]) -> Path:
    records = (json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) for row in rows)
    path.write_bytes("".join(f"{record}\n" for record in records).encode())
    return path


def write_parquet(path: Path, rows: list[list[str]]) -> Path:
    pq.write_table(pa.table(dict(zip(HEADER, zip(*rows, strict=True), strict=True))), path)
    return path


WRITERS: dict[str, Callable[[Path, list[list[str]]], Path]] = {
    "x.csv": write_csv,
    "x.tsv": write_csv,
    "x.jsonl": write_jsonl,
    "X.JSON": write_jsonl,
    "x.parquet": write_parquet,
}


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def to_lists(result: ReadResult) -> list[list[str]]:
    return [[e.anchor, e.positive, *e.negatives] for e in result.examples]


def skip_bad(path: Path, **options: Any) -> tuple[list[list[str]], list[str]]:
    """Reads with `skip`; returns the texts and the bad rows as printed, without the folder."""
    result = read_examples(path, on_bad_row="skip", **options)
    assert result.num_bad == len(result.bad_rows)
    assert result.num_rows == len(result.examples) + result.num_bad
    return to_lists(result), [str(row).removeprefix(f"{path.parent}/") for row in result.bad_rows]
