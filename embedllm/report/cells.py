"""What the tables of the page have in common: headings, cells, the best of a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from embedllm.report.markdown import MISSING, escape, link, table
from embedllm.report.methods import Method
from embedllm.report.published import Published, PublishedRow, PublishedTable
from embedllm.report.rows import SEVEN, Row, Score

DEV_TASK: Final = "STSBenchmark-dev"
MARK: Final = "(counts)"

_PLUS_MINUS: Final = "\u00b1"
_TITLES: Final = {
    DEV_TASK: "STS-B dev",
    "STSBenchmark": "STS-B",
    "SICKRelatedness": "SICK-R",
}


def name_of(task: str | None) -> str:
    """Returns what readers call a task, as plain text; for None the mean over seven."""
    return "mean" if task is None else _TITLES.get(task, task)


def title_of(task: str | None) -> str:
    """Returns the heading of a task, for None that of the mean over seven."""
    return escape(name_of(task))


def columns_of(rows: Sequence[Row], first: Sequence[str] = ()) -> list[str | None]:
    """Returns the tasks of a table of rows of one kind; None is the mean.

    Args:
        rows: Its rows; tasks of theirs that are neither in `first` nor of the seven come last.
        first: Tasks in front of the seven.
    """
    known = [*first, *SEVEN[rows[0].kind]]
    others = sorted({task for row in rows for task in row.scores} - set(known))
    return [*known, None, *others]


def score_cells(rows: Sequence[Row], columns: Sequence[str | None]) -> list[list[str]]:
    """Returns the scores, the best of each column bold where there are several to choose from."""
    best = {column: _best([row.value(column) for row in rows]) for column in columns}
    return [
        [_format(row, column, is_bold=row.value(column) == best[column]) for column in columns]
        for row in rows
    ]


def plain_cells(row: Row, columns: Sequence[str | None]) -> list[str]:
    """Returns the scores of one row."""
    return [_format(row, column, is_bold=False) for column in columns]


def published_cells(row: PublishedRow, columns: Sequence[str | None]) -> list[str]:
    """Returns the scores of a published row."""
    return [
        format_number(row.mean if column is None else row.scores.get(column)) for column in columns
    ]


def format_number(value: float | None, *, is_signed: bool = False) -> str:
    """Returns a number with two decimals, a difference with its sign."""
    if value is None:
        return MISSING
    return f"{value:+.2f}" if is_signed else f"{value:.2f}"


def runs_cell(rows: Iterable[Row]) -> str:
    """Returns the numbers of the runs that rows are from."""
    return ", ".join(map(str, sorted({number for row in rows for number in row.runs})))


def source_cell(method: Method | None) -> str:
    """Returns the source of a method, linked where it is on arXiv."""
    if method is None or method.authors is None:
        return MISSING
    url = f"https://arxiv.org/abs/{method.arxiv}"
    return link(method.authors, url) if method.arxiv else escape(method.authors)


def rows_table(rows: Sequence[Row], *, first: Sequence[str] = ()) -> str:
    """Returns the table of rows of one model, the best of each column bold."""
    columns = columns_of(rows, first)
    header = ["method", "source", *map(title_of, columns), "runs"]
    scores = score_cells(rows, columns)
    lines = [
        [escape(row.name.text), source_cell(row.name.method), *cells, runs_cell([row])]
        for row, cells in zip(rows, scores, strict=True)
    ]
    return table(header, lines, num_texts=2)


def sources_sentence(published: Published, tables: Iterable[PublishedTable]) -> str:
    """Returns where the published rows of a table are from, and what has to be known of them."""
    found = list(tables)
    names = dict.fromkeys(name for each in found for name in each.sources)
    links = [link(published.sources[n].text, published.sources[n].url) for n in names]
    notes = " ".join(escape(each.note) for each in found)
    return f"Published rows: {'; '.join(links)}. {notes}"


def _best(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return max(found) if len(found) > 1 else None


def _format(row: Row, task: str | None, *, is_bold: bool) -> str:
    score = row.mean if task is None else row.scores.get(task)
    if score is None:
        return MISSING
    text = format_score(score)
    return f"**{text}**" if is_bold else text


def format_score(score: Score) -> str:
    """Returns a score with its deviation over seeds, marked when its texts are not verified."""
    text = format_number(score.value)
    if score.deviation is not None:
        text = f"{text} {_PLUS_MINUS} {score.deviation:.2f}"
    return text if score.is_verified else f"{text} {MARK}"
