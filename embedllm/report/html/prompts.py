"""The section that compares prompts: STS-B dev of every method without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from embedllm.report.cells import DEV_TASK, name_of, runs_cell
from embedllm.report.content import PageContent
from embedllm.report.html.drawing import (
    GRID,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    Size,
    draw,
    label_rows,
    note,
)
from embedllm.report.html.parts import (
    Cell,
    Column,
    Picture,
    Section,
    Table,
    number,
    numbers,
    prose,
    signed,
    texts,
)
from embedllm.report.html.prompt_text import show_prompt
from embedllm.report.html.scores import commands_of
from embedllm.report.markdown import MISSING
from embedllm.report.rows import ReportRows, Row
from embedllm.report.statements import best_row
from embedllm.report.sts_sections import Gain, find_gains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE: Final = "prompteol"
# Of two prompts the table says enough.
_MIN_ROWS: Final = 3
_GAINS_NOTE: Final = (
    "LLaMA-2 7B has the mean of the seven tasks, as later papers print it. The sizes differ, and "
    "so do the tasks where ours is STS-B dev: what can be compared is the sign of a gain."
)
_COMMAND: Final = "python evaluate.py method=plain evaluation=sts-dev"


def prompts_section(content: PageContent) -> Section:
    """Returns the comparison, one picture for every model with two rows or more."""
    report = content.tables.report
    rows = [
        row
        for row in report.rows
        if row.kind == "sts"
        and not row.is_tuned
        and row.variant == "paper"
        and row.value(DEV_TASK) is not None
    ]
    by_model = [(base, list(group)) for base, group in groupby(rows, key=lambda row: row.base)]
    pictures = [
        _picture(report, base, found, place)
        for place, (base, found) in enumerate(by_model)
        if len(found) >= _MIN_ROWS
    ]
    sentences = (
        "STS-B dev (100 x Spearman) of every way to ask a model without training for a vector. "
        "Lines begin at PromptEOL of the same model.",
    )
    gains = find_gains(report, content.tables.published)
    missing = () if pictures else (("three prompts of one model", _COMMAND),)
    return Section(
        key="prompts",
        title="Prompts",
        prose=prose(*sentences),
        pictures=tuple(pictures),
        tables=(_build_gains(gains),) if gains else (),
        notes=prose(_GAINS_NOTE) if gains else (),
        missing=missing,
    )


def _build_gains(gains: Mapping[str, Sequence[Gain]]) -> Table:
    columns = (
        *texts("model", "method", "task"),
        *numbers("here", "gain", "LLaMA-2 7B", "its gain"),
        *texts("same sign", "runs"),
    )
    rows = tuple(
        (
            Cell(base),
            Cell(gain.row.name.text),
            Cell("mean of seven" if gain.task is None else name_of(gain.task)),
            number(gain.row.value(gain.task)),
            signed(gain.ours),
            number(gain.published.mean),
            signed(gain.theirs),
            Cell(MISSING if gain.is_same is None else "yes" if gain.is_same else "no"),
            Cell(runs_cell([gain.row, gain.reference])),
        )
        for base, group in gains.items()
        for gain in group
    )
    return Table("Gain over PromptEOL, here and on LLaMA-2 7B", columns, rows)


def _picture(report: ReportRows, base: str, rows: Sequence[Row], place: int) -> Picture:
    ordered = sorted(rows, key=lambda row: -_dev(row))
    reference = best_row(rows, _REFERENCE, DEV_TASK)
    wide, narrow = draw(
        f"prompts-{place + 1}",
        lambda figure, size: _paint(figure, size, ordered, reference),
        height=lambda size: 70 + len(ordered) * (44 if size.is_narrow else 29),
        title=f"STS-B dev by prompt, {base}",
        said=f"From best to worst: {'; '.join(f'{r.name.text} {_dev(r):.2f}' for r in ordered)}.",
    )
    columns = (*texts("method"), Column("STS-B dev", is_number=True), *texts("prompt", "runs"))
    return Picture(
        f"{base}: STS-B dev by prompt",
        wide,
        narrow,
        Table(
            f"{base}: STS-B dev and the exact prompt",
            columns,
            tuple(_line(report, row) for row in ordered),
        ),
        commands_of(report, rows),
    )


def _line(report: ReportRows, row: Row) -> tuple[Cell, ...]:
    prompts = [run.result.record["prompt"] for run in report.runs if run.number in row.runs]
    runs = ", ".join(map(str, row.runs))
    prompt = Cell(show_prompt(prompts[-1]), is_code=True)
    return (Cell(row.name.text), number(_dev(row)), prompt, Cell(runs))


def _dev(row: Row) -> float:
    return row.scores[DEV_TASK].value


def _paint(figure: Figure, size: Size, rows: Sequence[Row], reference: Row | None) -> None:
    axes = figure.add_subplot()
    values = [_dev(row) for row in rows]
    label_rows(axes, [row.name.text for row in rows], size)
    start = _dev(reference) if reference else min(values)
    axes.axvline(start, color=MUTED, linewidth=1)
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        is_reference = row is reference
        axes.plot([start, value], [place, place], color=GRID if is_reference else SERIES[0])
        style: dict[str, Any] = {"color": INK if is_reference else SERIES[0]}
        axes.plot(value, place, marker=MARKERS[1] if is_reference else MARKERS[0], **style)
        is_left = value < start
        note(
            axes,
            f"{value:.2f}",
            (value, place),
            xytext=(-8 if is_left else 8, 0),
            ha="right" if is_left else "left",
        )
    room = 0.12 * (max(values) - min(values) or 1)
    axes.set_xlim(min(*values, start) - room * 1.4, max(*values, start) + room * 1.4)
    axes.set_xlabel("STS-B dev, Spearman x 100")
