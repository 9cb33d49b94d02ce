"""The section of speed and memory: beside other tools, and the planner beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from embedllm.report.content import PageContent
from embedllm.report.html.drawing import (
    MARKERS,
    MUTED,
    SERIES,
    Size,
    draw,
    label_rows,
    visible,
)
from embedllm.report.html.parts import Cell, Picture, Section, Table, number, numbers, prose, texts
from embedllm.report.measurements import PlanRow, SpeedRecord

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_SPEED_COMMAND: Final = "python benchmarks/encode.py"
_PLAN_COMMAND: Final = "python benchmarks/plan_accuracy.py"
_OURS: Final = "embedllm"
_GIB: Final = 2**30


def speed_section(content: PageContent) -> Section:
    """Returns time, memory and the planner's accuracy; a line for each that was not measured."""
    found = content.measurements
    with_memory = [record for record in found.speed if record.memory_bytes]
    sentences: list[str] = []
    pictures, missing = [], []
    if found.speed:
        sentences.append(
            "The same work with the same vectors or gradients, one contestant after the other on "
            "one machine, so a ratio says more than seconds."
        )
        pictures.append(_time_picture(found.speed))
    else:
        missing.append(("speed beside other tools", _SPEED_COMMAND))
    if with_memory:
        pictures.append(_memory_picture(with_memory))
    if found.plan:
        sentences.append(_say_accuracy(found.plan))
        pictures.append(_plan_picture(found.plan, found.plan_command))
    else:
        missing.append(("the planner's estimates beside what was measured", _PLAN_COMMAND))
    title = "Speed and memory"
    return Section("speed", title, prose(*sentences), tuple(pictures), missing=tuple(missing))


def _time_picture(records: Sequence[SpeedRecord]) -> Picture:
    ratios = [
        {name: seconds / record.seconds[_OURS] for name, seconds in record.seconds.items()}
        for record in records
    ]
    wide, narrow = _draw_rows("time", records, ratios, "times as long as embedllm", "{:.1f}")
    return Picture(
        "Time for the same work, embedllm = 1",
        wide,
        narrow,
        _table("Median seconds", records, [r.seconds for r in records], ratios, "seconds", 2),
        tuple(record.command for record in records),
    )


def _memory_picture(records: Sequence[SpeedRecord]) -> Picture:
    values = [{k: v / _GIB for k, v in record.memory_bytes.items()} for record in records]
    ratios = [{k: v / each[_OURS] for k, v in each.items()} for each in values]
    wide, narrow = _draw_rows("memory", records, values, "peak memory, GiB", "{:.1f}")
    return Picture(
        "Peak memory of a training step, weights included",
        wide,
        narrow,
        _table("Peak memory in GiB", records, values, ratios, "GiB", 2),
        tuple(record.command for record in records),
    )


def _draw_rows(
    key: str,
    records: Sequence[SpeedRecord],
    values: Sequence[Mapping[str, float]],
    label: str,
    form: str,
) -> tuple[Markup, Markup]:
    names = [f"{record.what}\n{record.model}" for record in records]
    said = [
        f"{name.replace(chr(10), ', ')}: "
        f"{', '.join(f'{who} {form.format(v)}' for who, v in each.items())}."
        for name, each in zip(names, values, strict=True)
    ]
    return draw(
        key,
        lambda figure, size: _paint_rows(figure, size, names, values, label),
        height=lambda size: 95 + len(names) * (52 if size.is_narrow else 42),
        title=label,
        said=" ".join(said),
    )


def _paint_rows(
    figure: Figure,
    size: Size,
    names: list[str],
    values: Sequence[Mapping[str, float]],
    label: str,
) -> None:
    axes = figure.add_subplot()
    label_rows(axes, names, size)
    who = [name for name in dict.fromkeys(k for each in values for k in each) if "," not in name]
    for place, each in enumerate(values):
        shown = [each[name] for name in who if name in each]
        axes.plot([min(shown), max(shown)], [place, place], color=MUTED, linewidth=0.8)
    for order, name in enumerate(who):
        points = [(each[name], place) for place, each in enumerate(values) if name in each]
        axes.plot(
            *zip(*points, strict=True),
            linestyle="none",
            color=SERIES[order % len(SERIES)],
            marker=MARKERS[order % len(MARKERS)],
            markersize=8,
            label=visible(name),
        )
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    figure.legend(loc="outside upper left", ncols=1 if size.is_narrow else 4, borderaxespad=0.1)


def _table(
    caption: str,
    records: Sequence[SpeedRecord],
    values: Sequence[Mapping[str, float]],
    ratios: Sequence[Mapping[str, float]],
    unit: str,
    digits: int,
) -> Table:
    rows = tuple(
        (
            Cell(record.what),
            Cell(record.model),
            Cell(who),
            number(value, digits),
            number(ratio[who]),
            Cell(f"{record.name}.json"),
        )
        for record, each, ratio in zip(records, values, ratios, strict=True)
        for who, value in each.items()
    )
    columns = (*texts("work", "model", "with"), *numbers(unit, "ratio"), *texts("record"))
    return Table(caption, columns, rows)


def _plan_picture(rows: Sequence[PlanRow], command: str) -> Picture:
    wide, narrow = draw(
        "plan",
        lambda figure, size: _paint_plan(figure, size, rows),
        height=lambda size: 420 if size.is_narrow else 430,
        title="Peak memory as planned and as measured",
        said=_say_accuracy(rows),
    )
    columns = (*texts("model", "configuration"), *numbers("planned, GiB", "measured, GiB", "ratio"))
    lines = tuple(
        (
            Cell(row.model),
            Cell(row.what),
            number(row.estimate_bytes / _GIB),
            number(row.measured_bytes / _GIB),
            number(row.estimate_bytes / row.measured_bytes),
        )
        for row in rows
    )
    return Picture(
        "Peak memory, planned and measured",
        wide,
        narrow,
        Table("Every configuration", columns, lines),
        (command,),
    )


def _say_accuracy(rows: Sequence[PlanRow]) -> str:
    off = [abs(row.estimate_bytes / row.measured_bytes - 1) for row in rows]
    sizes = [row.measured_bytes / _GIB for row in rows]
    return (
        f"The planner's peak memory, over {len(rows)} configurations from {min(sizes):.1f} to "
        f"{max(sizes):.1f} GiB, is off by {sum(off) / len(off):.1%} on average and by "
        f"{max(off):.1%} at most."
    )


def _paint_plan(figure: Figure, size: Size, rows: Sequence[PlanRow]) -> None:
    axes = figure.add_subplot()
    every = [v / _GIB for row in rows for v in (row.estimate_bytes, row.measured_bytes)]
    low, high = 0.0, max(every) * 1.08
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1)
    axes.fill_between(
        [low, high],
        [low * 0.9, high * 0.9],
        [low * 1.1, high * 1.1],
        alpha=0.12,
        color=MUTED,
        linewidth=0,
        label="within 10%",
    )
    for place, model in enumerate(dict.fromkeys(row.model for row in rows)):
        axes.plot(
            [row.measured_bytes / _GIB for row in rows if row.model == model],
            [row.estimate_bytes / _GIB for row in rows if row.model == model],
            linestyle="none",
            color=SERIES[place % len(SERIES)],
            marker=MARKERS[place % len(MARKERS)],
            label=visible(model),
        )
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="measured, GiB", ylabel="planned, GiB")
    figure.legend(loc="outside upper left", ncols=2 if size.is_narrow else 4, borderaxespad=0.1)
