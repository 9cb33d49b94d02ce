"""The section about alignment and uniformity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedllm.evaluation.geometry import POSITIVE_FROM
from embedllm.report.cells import name_of, runs_cell
from embedllm.report.content import PageContent
from embedllm.report.geometry_section import COMMAND, PAPER, GeometryRow, find_geometry
from embedllm.report.html.drawing import MARKERS, SERIES, Size, draw, place_notes, visible
from embedllm.report.html.parts import Cell, Picture, Section, Table, number, numbers, prose, texts
from embedllm.report.html.scores import commands_of
from embedllm.report.markdown import link

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def geometry_section(content: PageContent) -> Section:
    """Returns the picture of alignment against uniformity, of the results that hold both."""
    title = "Alignment and uniformity"
    found = find_geometry(content.tables.report.rows)
    if not found:
        return Section("geometry", title, missing=((title.lower(), COMMAND),))
    wide, narrow = draw(
        "geometry",
        lambda figure, size: _paint(figure, size, found),
        height=lambda size: 470 if size.is_narrow else 420,
        title="Alignment against uniformity",
        said=" ".join(map(_say, found)),
    )
    columns = (
        *texts("model", "method", "task"),
        *numbers("alignment", "uniformity", "Spearman"),
        *texts("runs"),
    )
    rows = tuple(
        (
            Cell(each.row.base),
            Cell(each.row.name.text),
            Cell(name_of(each.task)),
            number(each.geometry.alignment, 3),
            number(each.geometry.uniformity, 3),
            number(each.score),
            Cell(runs_cell([each.row])),
        )
        for each in found
    )
    picture = Picture(
        "Alignment against uniformity",
        wide,
        narrow,
        Table("Both, and the score on the same pairs", columns, rows),
        commands_of(content.tables.report, [each.row for each in found]),
    )
    sentences = (
        f"How vectors lie on the sphere ({link(*PAPER)}): alignment is the mean squared distance "
        f"of the STS-B pairs with a gold score of {POSITIVE_FROM:g} or more, uniformity the "
        "logarithm of the mean of exp(-2 x squared distance) over all pairs of sentences. Lower "
        "is better for both, so good vectors lie at the bottom left.",
    )
    return Section("geometry", title, prose(*sentences), (picture,))


def _say(each: GeometryRow) -> str:
    geometry = each.geometry
    return (
        f"{each.row.base}, {each.row.name.text}: alignment {geometry.alignment:.3f}, uniformity "
        f"{geometry.uniformity:.3f}."
    )


def _paint(figure: Figure, size: Size, found: Sequence[GeometryRow]) -> None:
    axes = figure.add_subplot()
    models = list(dict.fromkeys(each.row.base for each in found))
    for place, model in enumerate(models):
        group = [each for each in found if each.row.base == model]
        axes.plot(
            [each.geometry.uniformity for each in group],
            [each.geometry.alignment for each in group],
            linestyle="none",
            color=SERIES[place % len(SERIES)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=8,
            label=visible(model),
        )
    axes.margins(x=0.16, y=0.14)
    axes.set_xlabel("uniformity (lower: more evenly spread)")
    axes.set_ylabel("alignment (lower: same meaning closer)")
    figure.legend(loc="outside upper left", ncols=1 if size.is_narrow else 3, borderaxespad=0.1)
    longest = 28 if size.is_narrow else 40
    notes = [
        (
            visible(_short(each.row.name.text), longest=longest),
            [(each.geometry.uniformity, each.geometry.alignment)],
        )
        for each in found
    ]
    place_notes(figure, axes, notes)


def _short(name: str) -> str:
    """Returns a row's name without what most of them begin with."""
    return name.removeprefix("PromptEOL ") if name != "PromptEOL" else name
