"""The section of learning curves: loss and dev score by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from embedllm.report.cells import name_of
from embedllm.report.content import PageContent
from embedllm.report.html.drawing import DASHES, MARKERS, SERIES, Size, draw, place_notes, visible
from embedllm.report.html.parts import Cell, Picture, Section, Table, number, numbers, prose, texts
from embedllm.report.html.scores import command_of
from embedllm.report.learning_curves import LearningCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMMAND: Final = "python train.py run_name=first"
# As many as can be told apart.
_NUM_SHOWN: Final = 6


def learning_section(content: PageContent) -> Section:
    """Returns the curves of the runs that have any; the picture shows the longest ones."""
    curves = content.curves
    if not curves:
        what = "learning curves; runs= is the folder of runs"
        return Section("learning", "Learning curves", missing=((what, _COMMAND),))
    longest = sorted(curves, key=lambda curve: (-_num_points(curve), curve.name))[:_NUM_SHOWN]
    shown = sorted(longest, key=lambda curve: curve.name)
    wide, narrow = draw(
        "learning",
        lambda figure, size: _paint(figure, size, shown),
        height=lambda size: 560 if size.is_narrow else 330,
        title="Loss and dev score by optimizer step",
        said=" ".join(map(_say, shown)),
    )
    sentences = ["Contrastive loss, and the score on the dev task, by optimizer step."]
    if len(curves) > len(shown):
        sentences[0] += (
            f" The picture shows the {len(shown)} longest of {len(curves)} runs, the table all."
        )
    rows = tuple(row for curve in curves for row in _rows(curve))
    columns = (*texts("run"), *numbers("step"), *texts("what"), *numbers("value"))
    picture = Picture(
        f"Loss and dev score: {shown[0].name}" if len(shown) == 1 else "Loss and dev score",
        wide,
        narrow,
        Table("Every point", columns, rows),
        _commands(content, shown),
    )
    return Section("learning", "Learning curves", prose(*sentences), (picture,))


def _num_points(curve: LearningCurve) -> int:
    return len(curve.loss) + sum(map(len, curve.dev.values()))


def _commands(content: PageContent, curves: Sequence[LearningCurve]) -> tuple[str, ...]:
    """Returns the commands of the runs: as their folders say, or as those of their scores."""
    report = content.tables.report
    stored = {
        result.run_name: command_of(result)
        for result in (*report.unused, *(run.result for run in report.runs))
        if result.record["command"][:1] == ["train.py"]
    }
    found = [curve.command or stored.get(curve.name.rpartition("/")[2]) for curve in curves]
    return tuple(dict.fromkeys(filter(None, found)))


def _rows(curve: LearningCurve) -> list[tuple[Cell, ...]]:
    kinds = {"loss": curve.loss, "in-batch accuracy": curve.accuracy}
    kinds |= {name_of(task): points for task, points in curve.dev.items()}
    return [
        (Cell(curve.name), number(step, 0), Cell(what), number(value, 3))
        for what, points in kinds.items()
        for step, value in points.items()
    ]


def _say(curve: LearningCurve) -> str:
    parts = []
    if curve.loss:
        values = list(curve.loss.values())
        parts.append(f"loss from {values[0]:.3f} to {values[-1]:.3f}")
    for task, points in curve.dev.items():
        listed = ", ".join(f"{value:.2f} at step {step}" for step, value in points.items())
        parts.append(f"{name_of(task)} {listed}")
    return f"{curve.name}: {'; '.join(parts)}."


def _paint(figure: Figure, size: Size, curves: Sequence[LearningCurve]) -> None:
    shape = (2, 1) if size.is_narrow else (1, 2)
    loss, dev = figure.subplots(*shape)
    for place, curve in enumerate(curves):
        style = {"color": SERIES[place], "linestyle": DASHES[place], "marker": MARKERS[place]}
        loss.plot(*_points(curve.loss), **style, markersize=4, label=visible(curve.name))
        for points in curve.dev.values():
            dev.plot(*_points(points), **style)
    tasks = list(dict.fromkeys(name_of(task) for curve in curves for task in curve.dev))
    loss.set_title("loss")
    dev.set_title(visible(", ".join(tasks) or "dev score"))
    for axes in (loss, dev):
        axes.set_xlabel("optimizer step")
        axes.margins(x=0.08, y=0.16)
        axes.locator_params(axis="both", nbins=5)
    # A step is a whole number, and both begin where training does.
    loss.set_xlim(left=0)
    dev.set_xlim(loss.get_xlim())
    if not tasks:
        dev.set_visible(False)
    if len(curves) > 1:
        columns = 1 if size.is_narrow else 3
        figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0.1)
    else:
        scores = [point for points in curves[0].dev.values() for point in points.items()]
        place_notes(figure, dev, [(f"{value:.2f}", [(step, value)]) for step, value in scores])


def _points(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())
