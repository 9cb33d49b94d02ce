"""Tables of results: one row per encoder, one column per task, in the paper's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from embedllm.console import result_table
from embedllm.evaluation.scores import EvaluationResult, TaskKind, TaskScore
from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS

_HEADINGS: Final = (
    ("STSBenchmark-dev", "STS-B dev"),
    ("STSBenchmark", "STS-B"),
    ("SICKRelatedness", "SICK-R"),
)
_AVERAGE: Final = "Avg."
_AVERAGES: Final[dict[TaskKind, str]] = {"sts": "STS avg.", "transfer": "Transfer avg."}
_MISSING: Final = "-"
_MAX_WIDTH: Final = 1000


def format_scores(rows: Mapping[str, EvaluationResult]) -> Table:
    """Returns a table for the terminal.

    Columns are the tasks of all rows, the paper's seven STS tasks first and in its order, then
    the others as they come, then the transfer tasks, then the average over the tasks of that row;
    with tasks of both kinds, one average for each. What a row lacks shows `-`.
    When the rows are exactly `before` and `after`, a row `gain` with their differences follows.

    Args:
        rows: results by row name, in the order of the rows.

    Raises:
        ValueError: there are no rows.
    """
    header, body = _build_cells(rows)
    # Without vertical rules the seven tasks and their mean fit into 80 columns.
    table = result_table()
    for position, heading in enumerate(header):
        table.add_column(heading, justify="left" if position == 0 else "right", no_wrap=True)
    for name, *cells in body:
        # Row names are paths or run names and may hold brackets, which rich takes for markup.
        table.add_row(escape(name), *cells, style="bold" if name == "gain" else None)
    return table


def print_scores(console: Console, rows: Mapping[str, EvaluationResult]) -> None:
    """Prints the table of `format_scores`, whole: the terminal may wrap it, no cell is cut."""
    table = format_scores(rows)
    wide = console.options.update(width=_MAX_WIDTH)
    width = console.width
    # rich takes no width above the console's for a single print.
    console.width = max(width, console.measure(table, options=wide).maximum)
    try:
        console.print(table)
    finally:
        console.width = width


def scores_to_plain(result: EvaluationResult) -> dict[str, Any]:
    """Returns the scores for scripts: each task's, and the averages that there are."""
    averages = {kind: mean for kind, mean in result.averages.items() if mean is not None}
    return {"tasks": {task.name: task.score for task in result.tasks}, "averages": averages}


def to_markdown(rows: Mapping[str, EvaluationResult]) -> str:
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


def _build_cells(rows: Mapping[str, EvaluationResult]) -> tuple[list[str], list[list[str]]]:
    """Returns header and body, both with the row name in the first column."""
    if not rows:
        raise ValueError("A table needs at least one result.")
    names, kinds = _order_tasks(rows), _list_kinds(rows)
    headings = dict(_HEADINGS)
    averages = [_AVERAGES[kind] for kind in kinds] if len(kinds) > 1 else [_AVERAGE]
    header = ["", *(headings.get(name, name) for name in names), *averages]
    body = []
    for row, result in rows.items():
        by_name = _index(result)
        cells = [f"{by_name[name].score:.2f}" if name in by_name else _MISSING for name in names]
        means = [result.averages[kind] for kind in kinds]
        cells += [_MISSING if mean is None else f"{mean:.2f}" for mean in means]
        body.append([row, *cells])
    if set(rows) == {"before", "after"}:
        body.append(["gain", *_build_gains(rows["before"], rows["after"], names, kinds)])
    return header, body


def _build_gains(
    before: EvaluationResult,
    after: EvaluationResult,
    names: Sequence[str],
    kinds: Sequence[TaskKind],
) -> list[str]:
    """Returns the differences; `-` where the two rows did not measure the same thing."""
    old, new = _index(before), _index(after)
    are_comparable = [
        name in old and name in new and _alike(old[name], new[name]) for name in names
    ]
    cells = [
        _subtract(new[name].score, old[name].score) if is_comparable else _MISSING
        for name, is_comparable in zip(names, are_comparable, strict=True)
    ]
    for kind in kinds:
        left, right = before.averages[kind], after.averages[kind]
        of_kind = [
            is_comparable
            for name, is_comparable in zip(names, are_comparable, strict=True)
            if (new.get(name) or old[name]).kind == kind
        ]
        if left is None or right is None or not all(of_kind):
            cells.append(_MISSING)
        else:
            cells.append(_subtract(right, left))
    return cells


def _alike(left: TaskScore, right: TaskScore) -> bool:
    return (left.metric, left.protocol, left.probe) == (right.metric, right.protocol, right.probe)


def _subtract(after: float, before: float) -> str:
    # Adding 0.0 turns the negative zero that rounding can leave into a plain one.
    return f"{round(after - before, 2) + 0.0:+.2f}"


def _order_tasks(rows: Mapping[str, EvaluationResult]) -> list[str]:
    found = dict.fromkeys(task.name for result in rows.values() for task in result.tasks)
    published = (*PAPER_TASKS, *TRANSFER_TASKS)
    others = [name for name in found if name not in published]
    return [name for name in (*PAPER_TASKS, *others, *TRANSFER_TASKS) if name in found]


def _list_kinds(rows: Mapping[str, EvaluationResult]) -> list[TaskKind]:
    found = {task.kind for result in rows.values() for task in result.tasks}
    return [kind for kind in _AVERAGES if kind in found]


def _index(result: EvaluationResult) -> dict[str, TaskScore]:
    return {task.name: task for task in result.tasks}
