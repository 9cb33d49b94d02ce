"""Tables of STS results: one row per encoder, one column per task, in the paper's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from embedllm.evaluation.sts import STSResult, TaskScore
from embedllm.evaluation.tasks import PAPER_TASKS

_HEADINGS: Final = (
    ("STSBenchmark-dev", "STS-B dev"),
    ("STSBenchmark", "STS-B"),
    ("SICKRelatedness", "SICK-R"),
)
_AVERAGE: Final = "Avg."
_MISSING: Final = "-"


def format_scores(rows: Mapping[str, STSResult]) -> Table:
    """Returns a table for the terminal.

    Columns are the tasks of all rows, the paper's seven first and in its order, then the others
    as they come, then the average over the tasks of that row. A task that a row lacks shows `-`.
    When the rows are exactly `before` and `after`, a row `gain` with their differences follows.

    Args:
        rows: results by row name, in the order of the rows.

    Raises:
        ValueError: there are no rows.
    """
    header, body = _build_cells(rows)
    # Without vertical rules the seven tasks and their mean fit into 80 columns.
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for position, heading in enumerate(header):
        table.add_column(heading, justify="left" if position == 0 else "right", no_wrap=True)
    for name, *cells in body:
        # Row names are paths or run names and may hold brackets, which rich takes for markup.
        table.add_row(escape(name), *cells, style="bold" if name == "gain" else None)
    return table


def to_markdown(rows: Mapping[str, STSResult]) -> str:
    """Returns the table of `format_scores` in Markdown, with a final line feed.

    Raises:
        ValueError: there are no rows.
    """
    header, body = _build_cells(rows)
    lines = [_join_cells(header), "| --- |" + " ---: |" * (len(header) - 1)]
    lines += [_join_cells(cells) for cells in body]
    return "\n".join(lines) + "\n"


def _join_cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _build_cells(rows: Mapping[str, STSResult]) -> tuple[list[str], list[list[str]]]:
    """Returns header and body, both with the row name in the first column."""
    if not rows:
        raise ValueError("A table needs at least one result.")
    names = _order_tasks(rows)
    headings = dict(_HEADINGS)
    header = ["", *(headings.get(name, name) for name in names), _AVERAGE]
    body = []
    for row, result in rows.items():
        by_name = _index(result)
        cells = [f"{by_name[name].score:.2f}" if name in by_name else _MISSING for name in names]
        body.append([row, *cells, f"{result.average:.2f}"])
    if set(rows) == {"before", "after"}:
        body.append(["gain", *_build_gains(rows["before"], rows["after"], names)])
    return header, body


def _build_gains(before: STSResult, after: STSResult, names: Sequence[str]) -> list[str]:
    """Returns the differences; `-` where the two rows did not measure the same thing."""
    old, new = _index(before), _index(after)
    cells = []
    for name in names:
        is_comparable = name in old and name in new and old[name].protocol == new[name].protocol
        cells.append(_subtract(new[name].score, old[name].score) if is_comparable else _MISSING)
    is_comparable = _MISSING not in cells
    cells.append(_subtract(after.average, before.average) if is_comparable else _MISSING)
    return cells


def _subtract(after: float, before: float) -> str:
    # Adding 0.0 turns the negative zero that rounding can leave into a plain one.
    return f"{round(after - before, 2) + 0.0:+.2f}"


def _order_tasks(rows: Mapping[str, STSResult]) -> list[str]:
    found = dict.fromkeys(task.name for result in rows.values() for task in result.tasks)
    paper = [name for name in PAPER_TASKS if name in found]
    return paper + [name for name in found if name not in PAPER_TASKS]


def _index(result: STSResult) -> dict[str, TaskScore]:
    return {task.name: task for task in result.tasks}
