"""The part of the page about the transfer tasks: a table for each classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS
from embedllm.report.cells import (
    columns_of,
    plain_cells,
    published_cells,
    runs_cell,
    source_cell,
    sources_sentence,
    title_of,
)
from embedllm.report.markdown import MISSING, escape, table
from embedllm.report.published import Published
from embedllm.report.rows import ReportRows, Row


def transfer_blocks(report: ReportRows, published: Published) -> Iterator[str]:
    """Yields our rows by classifier, then the published ones."""
    yield "## Transfer tasks"
    rows = [row for row in report.rows if row.kind == "transfer"]
    if not rows:
        yield "The store has no scores of transfer tasks yet."
    # Sorting keeps the order of models and methods within a classifier.
    by_probe = sorted(rows, key=lambda row: row.variant)
    for probe, group in groupby(by_probe, key=lambda row: row.variant):
        yield f"### Classifier: {escape(probe)}"
        yield (
            "Accuracy in percent. The column seconds is the time of the classifier alone, summed "
            "over the tasks; with several seeds it is that of one seed, on average."
        )
        yield _build_table(list(group))
    yield "### Published transfer scores"
    columns: list[str | None] = [*TRANSFER_TASKS, None]
    tables = [published.tables["transfer_baselines"], published.tables["transfer_prompteol"]]
    lines = [
        [escape(row.name), *published_cells(row, columns)] for each in tables for row in each.rows
    ]
    yield table(["model", *map(title_of, columns)], lines)
    yield sources_sentence(published, tables)


def _build_table(rows: Sequence[Row]) -> str:
    columns = columns_of(rows)
    header = ["model", "method", "source", *map(title_of, columns), "seeds", "seconds", "runs"]
    lines = [
        [
            escape(row.base),
            escape(row.name.text),
            source_cell(row.name.method),
            *plain_cells(row, columns),
            _count_seeds(row),
            _sum_seconds(row),
            runs_cell([row]),
        ]
        for row in rows
    ]
    return table(header, lines, num_texts=3)


def _count_seeds(row: Row) -> str:
    counts = {len(score.by_seed) for score in row.scores.values()}
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _sum_seconds(row: Row) -> str:
    times = [score.seconds for score in row.scores.values()]
    known = [time for time in times if time is not None]
    return f"{sum(known):.1f}" if len(known) == len(times) else MISSING
