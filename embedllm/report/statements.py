"""Sentences that are computed from rows: what holds, what does not, and what cannot be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from embedllm.report.cells import format_number, title_of
from embedllm.report.markdown import escape, join_words
from embedllm.report.methods import METHODS, PAPER_ORDER
from embedllm.report.published import PublishedTable
from embedllm.report.rows import Row


def best_row(rows: Sequence[Row], label: str, task: str | None) -> Row | None:
    """Returns the best row of a method on a task, None when none was scored.

    Rows that read the vector in another way than the method does are left out.

    Args:
        rows: Rows of one model.
        label: The method.
        task: The task, None for the mean over seven.
    """
    found = [r for r in rows if r.name.label == label and r.name.is_standard]
    scored = [(value, row) for row in found if (value := row.value(task)) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def state_order(rows: Sequence[Row], task: str | None) -> str:
    """Returns whether the paper's order of the four methods holds on a task.

    Args:
        rows: Rows without training of one model, scored with the paper's protocol.
        task: The task, None for the mean over seven.
    """
    best = {label: best_row(rows, label, task) for label in PAPER_ORDER}
    where = "the mean of the seven tasks" if task is None else title_of(task)
    order = " < ".join(METHODS[label].title for label in PAPER_ORDER)
    missing = [METHODS[label].title for label, row in best.items() if row is None]
    if missing:
        return (
            f"Whether the paper's order ({escape(order)}) holds on {where} cannot be said: there "
            f"is no score for {join_words(list(map(escape, missing)))}."
        )
    found = {label: row for label, row in best.items() if row is not None}
    faults = [
        f"{_say(found[upper], task)} is not above {_say(found[lower], task)}"
        for lower, upper in pairwise(PAPER_ORDER)
        if _value(found[upper], task) <= _value(found[lower], task)
    ]
    if faults:
        return (
            f"The paper's order ({escape(order)}) does not hold on {where}: {join_words(faults)}."
            f"{_note_choice(rows, found, task)}"
        )
    values = " < ".join(format_number(_value(row, task)) for row in found.values())
    return (
        f"The paper's order ({escape(order)}) holds on {where}: {escape(values)}."
        f"{_note_choice(rows, found, task)}"
    )


def has_order(rows: Sequence[Row], task: str | None) -> bool:
    """Whether all four methods of the paper's order have a score on a task."""
    return all(best_row(rows, label, task) is not None for label in PAPER_ORDER)


def state_passed(
    rows: Sequence[Row], without: PublishedTable, with_demonstration: PublishedTable
) -> str | None:
    """Returns which published rows the best row of a model is above; None without a mean.

    Args:
        rows: Rows without training of one model, scored with the paper's protocol.
        without: Published means without a demonstration.
        with_demonstration: Published means with one.
    """
    scored = [(value, row) for row in rows if (value := row.value(None)) is not None]
    if not scored:
        return None
    mean, row = max(scored, key=lambda pair: pair[0])
    parts = []
    for name, published in (
        ("without a demonstration", without),
        ("with a demonstration", with_demonstration),
    ):
        passed = [f"{p.name} ({format_number(p.mean)})" for p in published.rows if mean > p.mean]
        words = join_words(list(map(escape, passed))) if passed else "no published row"
        parts.append(f"{name} it is above {words}")
    return (
        f"{escape(row.base)}: the best row without training is {escape(row.name.text)}, "
        f"{format_number(mean)}. Of the paper's OPT rows {' and '.join(parts)}."
    )


def _note_choice(rows: Sequence[Row], found: Mapping[str, Row], task: str | None) -> str:
    """Names the row where a method has several."""
    notes = []
    for label, row in found.items():
        same = [r for r in rows if r.name.label == label and r.name.is_standard]
        number = sum(r.value(task) is not None for r in same)
        if number > 1:
            title = escape(METHODS[label].title)
            notes.append(f" For {title} this is the best of {number} rows: {_say(row, task)}.")
    return "".join(notes)


def _say(row: Row, task: str | None) -> str:
    return f"{escape(row.name.text)} ({format_number(row.value(task))})"


def _value(row: Row, task: str | None) -> float:
    value = row.value(task)
    assert value is not None  # best_row returns scored rows only
    return value
