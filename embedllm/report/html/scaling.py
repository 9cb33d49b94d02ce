"""The section of the scaling curve: score against parameters, ours beside the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from embedllm.report.cells import sources_sentence
from embedllm.report.content import PageContent
from embedllm.report.html.drawing import DASHES, MARKERS, SERIES, Size, draw, place_notes, visible
from embedllm.report.html.parts import Cell, Picture, Section, Table, number, numbers, prose, texts
from embedllm.report.html.scores import commands_of
from embedllm.report.rows import Row
from embedllm.report.scaling_curve import Point, published_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TABLES: Final = (
    ("opt_without_demonstration", "OPT", "PromptEOL"),
    ("opt_with_demonstration", "OPT", "+ demonstration"),
    ("fine_tuned", "OPT", "fine-tuned"),
    ("fine_tuned", "LLaMA", "fine-tuned"),
)
# Ours, by label and training, beside the published line that they belong to.
_WAYS: Final = {
    ("prompteol", False): 0,
    ("demonstration", False): 1,
    ("prompteol", True): 2,
    ("demonstration", True): 2,
}
_COMMAND: Final = "python evaluate.py method=prompteol evaluation=sts"


@dataclass(frozen=True)
class _Ours:
    """The best row of one model and way, and its size."""

    row: Row
    way: int
    parameters: int
    score: float


def scaling_section(content: PageContent) -> Section:
    """Returns the curve."""
    published = content.tables.published
    ours = _find(content)
    lines = [
        (family, how, published_points(published.tables[name], family))
        for name, family, how in _TABLES
    ]
    wide, narrow = draw(
        "scaling",
        lambda figure, size: _paint(figure, size, lines, ours),
        height=lambda size: 460 if size.is_narrow else 420,
        title="Mean of the seven STS tasks against parameters",
        said=" ".join([*map(_say_line, lines), *map(_say_ours, ours)]),
    )
    rows = [
        (Cell(f"{family} (published)"), Cell(how), number(p.parameters / 1e6, 0), number(p.score))
        for family, how, points in lines
        for p in points
    ]
    rows[:0] = [
        (Cell(o.row.base), Cell(o.row.name.text), number(o.parameters / 1e6, 0), number(o.score))
        for o in ours
    ]
    columns = (*texts("model", "how"), *numbers("parameters (millions)", "mean of seven"))
    picture = Picture(
        "Score against parameters",
        wide,
        narrow,
        Table("Every point", columns, tuple(rows)),
        commands_of(content.tables.report, [each.row for each in ours]),
    )
    tables = [published.tables[name] for name in dict.fromkeys(name for name, *_ in _TABLES)]
    sentences = (
        "Mean of the seven STS tasks. Filled marks are runs from here, lines are the paper's; of "
        "several demonstrations or adapters the best counts.",
    )
    missing = () if ours else (("points from here, of all seven tasks", _COMMAND),)
    notes = prose(sources_sentence(published, tables))
    return Section(
        "scaling", "Scaling", prose(*sentences), (picture,), notes=notes, missing=missing
    )


def _find(content: PageContent) -> list[_Ours]:
    best: dict[tuple[str, int], _Ours] = {}
    for row in content.tables.report.rows:
        way = _WAYS.get((row.name.label or "", row.is_tuned))
        score = row.value(None)
        if row.kind != "sts" or row.variant != "paper" or way is None or score is None:
            continue
        # Types of one model's weights are one point.
        key = (row.base.partition(",")[0], way)
        if row.base in content.sizes and (key not in best or score > best[key].score):
            best[key] = _Ours(row, way, content.sizes[row.base], score)
    return sorted(best.values(), key=lambda each: (each.parameters, each.way, each.row.base))


def _say_line(line: tuple[str, str, tuple[Point, ...]]) -> str:
    family, how, points = line
    shown = "; ".join(f"{p.parameters / 1e9:g} billion {p.score:.2f}" for p in points)
    return f"Published {family} {how}: {shown}."


def _say_ours(ours: _Ours) -> str:
    size = f"{ours.parameters / 1e6:.0f} million"
    return f"{ours.row.base}, {ours.row.name.text}: {size} {ours.score:.2f}."


def _paint(
    figure: Figure,
    size: Size,
    lines: list[tuple[str, str, tuple[Point, ...]]],
    ours: list[_Ours],
) -> None:
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for place, (family, how, points) in enumerate(lines):
        color = SERIES[min(place, 2)]
        axes.plot(
            [p.parameters for p in points],
            [p.score for p in points],
            color=color,
            linestyle=DASHES[place],
            marker=MARKERS[min(place, 2)],
            markerfacecolor="none",
            markersize=5,
            label=visible(f"{family} {how}"),
        )
    for each in ours:
        axes.plot(each.parameters, each.score, markersize=9, **_filled(each.way))
    ticks = {1e8: "100M", 1e9: "1B", 1e10: "10B", 1e11: "100B"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlim(8e7, 1.1e11)
    axes.set_xlabel("parameters")
    axes.set_ylabel("mean of seven")
    axes.margins(y=0.08)
    _add_legend(figure, axes, sorted({each.way for each in ours}), size)
    place_notes(figure, axes, _name_models(ours))


def _filled(way: int) -> dict[str, Any]:
    return {"color": SERIES[way], "marker": MARKERS[way], "linestyle": "none"}


def _add_legend(figure: Figure, axes: Axes, ways: list[int], size: Size) -> None:
    """Names the lines, and in one entry the filled marks of all ways."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    shown, labels = axes.get_legend_handles_labels()
    handles: list[Any] = list(shown)
    if ways:
        handles.append(tuple(Line2D([], [], **_filled(way)) for way in ways))
        labels.append("runs from here")
    figure.legend(
        handles,
        labels,
        handler_map={tuple: HandlerTuple(ndivide=None)},
        loc="outside upper left",
        ncols=1 if size.is_narrow else 3,
        borderaxespad=0.1,
    )


def _name_models(ours: list[_Ours]) -> list[tuple[str, list[tuple[float, float]]]]:
    """Returns the name of every model, and its marks, the highest first."""
    marks: dict[str, list[tuple[float, float]]] = {}
    for each in sorted(ours, key=lambda each: -each.score):
        name = visible(each.row.base.partition(",")[0], longest=18)
        marks.setdefault(name, []).append((each.parameters, each.score))
    return [*marks.items()]
