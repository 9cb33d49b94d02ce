"""Score against parameters: the runs of a sweep over models, beside the published curve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.files import write_atomically
from embedllm.log import get_logger
from embedllm.report.published import Published, PublishedTable
from embedllm.report.sizes import count_models
from embedllm.report.sweep_runs import Spread, Sweep, SweepRow

_log = get_logger(__name__)

_SIZE: Final = re.compile(r"(\w+) ([\d.]+)([MB])")
_UNITS: Final = {"M": 1e6, "B": 1e9}


@dataclass(frozen=True)
class Point:
    """One model of a curve.

    Attributes:
        parameters: How many it has.
        score: Mean over the seeds.
    """

    parameters: float
    score: float


@dataclass(frozen=True)
class Curve:
    """One line of the picture.

    Attributes:
        label: What it is.
        points: By size.
        is_published: Whether the numbers are the paper's.
    """

    label: str
    points: tuple[Point, ...]
    is_published: bool = False


def build_curves(sweep: Sweep, published: Published, cache_dir: Path) -> list[Curve]:
    """Returns the curves of a sweep; none when its finished runs are of one size.

    The published ones are beside them only where the tasks are the same, the paper's seven.

    Args:
        sweep: The sweep.
        published: The published numbers.
        cache_dir: `paths.cache_dir`, for models that are converted.
    """
    sizes = _count_all(sweep.of_status("done"), cache_dir)
    if len(set(sizes.values())) < 2:
        return []
    rows = [row for row in sweep.of_status("done") if _model_of(row) in sizes]
    curves = [
        Curve(label, _points(rows, sizes, is_after=is_after))
        for label, is_after in (("before training", False), ("fine-tuned", True))
    ]
    found = [curve for curve in curves if curve.points]
    if any(_is_on_paper_tasks(row) for row in rows):
        found += _published_curves(rows, published)
    return found


def draw_curves(curves: Sequence[Curve], path: Path) -> bool:
    """Writes the picture as SVG, the same for the same curves, and says whether it could.

    Without matplotlib there is a warning and no picture.
    """
    try:
        import matplotlib
    except ImportError:
        _log.warning("no picture without matplotlib; pip install 'embedllm[report]' brings it")
        return False
    from io import BytesIO

    # A fixed salt for the ids in the file, and below no date.
    with matplotlib.rc_context({"svg.hashsalt": "embedllm", "svg.fonttype": "none"}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 4.0), layout="constrained")
        panel = figure.add_subplot()
        for curve in curves:
            style: dict[str, Any] = {"marker": "o"}
            if curve.is_published:
                style = {"linestyle": "--", "marker": "x"}
            sizes = [point.parameters for point in curve.points]
            panel.plot(sizes, [p.score for p in curve.points], label=curve.label, **style)
        panel.set_xscale("log")
        panel.set_xlabel("parameters")
        panel.set_ylabel("average")
        panel.grid(visible=True, alpha=0.25)
        panel.legend(frameon=False, fontsize="small")
        content = BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    write_atomically(path, content.getvalue())
    return True


def _points(
    rows: Sequence[SweepRow], sizes: dict[str, int], *, is_after: bool
) -> tuple[Point, ...]:
    by_size: dict[int, list[float | None]] = {}
    for row in rows:
        score = row.after if is_after else row.before
        by_size.setdefault(sizes[_model_of(row)], []).append(score)
    means = {size: Spread.of(scores) for size, scores in sorted(by_size.items())}
    return tuple(Point(size, mean.mean) for size, mean in means.items() if mean)


def _published_curves(rows: Sequence[SweepRow], published: Published) -> list[Curve]:
    manifests = [row.state.manifest for row in rows if row.state.manifest]
    has_demonstrations = any(m["config"]["prompt"]["demonstrations"] for m in manifests)
    with_or_without = "with" if has_demonstrations else "without"
    tables = {
        f"opt_{with_or_without}_demonstration": "published: OPT, not fine-tuned",
        "fine_tuned": "published: OPT, fine-tuned",
    }
    return [
        Curve(label, published_points(published.tables[name], "OPT"), is_published=True)
        for name, label in tables.items()
    ]


def published_points(table: PublishedTable, family: str) -> tuple[Point, ...]:
    """Returns the models of a family in a published table, by size."""
    matches = [(_SIZE.fullmatch(row.name), row.mean) for row in table.rows]
    points = [Point(float(m[2]) * _UNITS[m[3]], v) for m, v in matches if m and m[1] == family]
    return tuple(sorted(points, key=lambda point: point.parameters))


def _is_on_paper_tasks(row: SweepRow) -> bool:
    records = [record for record in (row.state.before, row.state.after) if record]
    return any(
        set(PAPER_TASKS) <= set(record["tasks"])
        and all(record["tasks"][task]["protocol"] == "paper" for task in PAPER_TASKS)
        for record in records
    )


def _model_of(row: SweepRow) -> str:
    manifest = row.state.manifest
    return str(manifest["config"]["model"]["name"]) if manifest else ""


def _count_all(rows: Sequence[SweepRow], cache_dir: Path) -> dict[str, int]:
    models = {
        _model_of(row): row.state.manifest["config"]["model"] for row in rows if row.state.manifest
    }
    return count_models(models, cache_dir) if len(models) > 1 else {}
