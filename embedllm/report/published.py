"""The published numbers that the report shows, from `published.json`.

The file holds what the page needs and nothing else, each table with its sources. It is read and
checked when a page is made; a fault in it is a bug of the package, not of its user.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS

# The published means were taken before or after rounding; either way they are this close.
_MEAN_TOLERANCE: Final = 0.0101
_TABLES: Final = {
    "opt_without_demonstration": PAPER_TASKS,
    "opt_with_demonstration": PAPER_TASKS,
    "fine_tuned": PAPER_TASKS,
    "later_methods": PAPER_TASKS,
    "transfer_baselines": TRANSFER_TASKS,
    "transfer_prompteol": TRANSFER_TASKS,
}


@dataclass(frozen=True)
class Source:
    """Where a number was read.

    Attributes:
        text: What it is.
        url: Its address.
    """

    text: str
    url: str


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        name: The model or method, in the words of the source.
        mean: The mean over the seven tasks.
        scores: Score by task; empty where only the mean was published.
        word: Word of the demonstration, None without one.
        method: The file of `conf/method` that does the same, None where there is none.
    """

    name: str
    mean: float
    scores: Mapping[str, float]
    word: str | None = None
    method: str | None = None

    def __post_init__(self) -> None:
        values = [self.mean, *self.scores.values()]
        if not self.name or not all(math.isfinite(v) and 0 < v <= 100 for v in values):
            raise ValueError(f"published row {self.name!r} has a value out of range: {values}")


@dataclass(frozen=True)
class PublishedTable:
    """One published table.

    Attributes:
        rows: Its rows, in order.
        sources: Names of its sources.
        note: What a reader has to know, in sentences.
    """

    rows: tuple[PublishedRow, ...]
    sources: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Published:
    """Everything in `published.json`.

    Attributes:
        sources: By name.
        tables: By name; the names are those of the file.
        absent: What was published but is not here, or was not published, in sentences.
        paper_title: Title of the paper.
        paper_authors: Its authors.
        paper_arxiv: Its number on arXiv.
    """

    sources: Mapping[str, Source]
    tables: Mapping[str, PublishedTable]
    absent: tuple[str, ...]
    paper_title: str
    paper_authors: str
    paper_arxiv: str

    def __post_init__(self) -> None:
        if self.tables.keys() != _TABLES.keys():
            raise ValueError(f"published tables are {list(self.tables)}, not {list(_TABLES)}")
        for name, table in self.tables.items():
            unknown = [source for source in table.sources if source not in self.sources]
            if unknown or not table.sources or not table.rows:
                raise ValueError(f"published table {name} has no rows or odd sources: {unknown}")
            for row in table.rows:
                _check_scores(row, _TABLES[name])


def load_published() -> Published:
    """Returns the published numbers.

    Raises:
        ValueError: The file of the package is damaged or does not add up.
    """
    text = resources.files("embedllm.report").joinpath("published.json").read_text("utf-8")
    return parse_published(json.loads(text))


def parse_published(values: Mapping[str, Any]) -> Published:
    """Returns the checked content of the file.

    Raises:
        ValueError: A mean is not that of its scores, a source is not described, or the like.
        KeyError: Something is missing.
    """
    paper = values["paper"]
    return Published(
        sources={name: Source(**source) for name, source in values["sources"].items()},
        tables={name: _parse_table(table) for name, table in values["tables"].items()},
        absent=tuple(values["absent"]),
        paper_title=paper["title"],
        paper_authors=paper["authors"],
        paper_arxiv=paper["arxiv"],
    )


def _parse_table(table: Mapping[str, Any]) -> PublishedTable:
    rows = tuple(PublishedRow(**{"scores": {}, **row}) for row in table["rows"])
    return PublishedTable(rows, tuple(table["sources"]), table["note"])


def _check_scores(row: PublishedRow, tasks: tuple[str, ...]) -> None:
    unknown = set(row.scores) - set(tasks)
    if unknown:
        raise ValueError(f"published row {row.name!r} has other tasks: {sorted(unknown)}")
    if len(row.scores) == len(tasks):
        mean = math.fsum(row.scores.values()) / len(tasks)
        if abs(mean - row.mean) > _MEAN_TOLERANCE:
            raise ValueError(f"published row {row.name!r}: mean {row.mean}, its scores {mean:.4f}")
