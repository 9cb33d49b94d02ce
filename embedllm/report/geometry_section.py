"""The part of the page about alignment and uniformity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from embedllm.evaluation.geometry import POSITIVE_FROM, Geometry
from embedllm.report.cells import DEV_TASK, format_number, runs_cell, title_of
from embedllm.report.markdown import escape, link, table
from embedllm.report.rows import Row

# Of a row that has both, the test split.
_TASKS: Final = ("STSBenchmark", DEV_TASK)
PAPER: Final = ("Wang and Isola 2020", "https://arxiv.org/abs/2005.10242")
COMMAND: Final = "python evaluate.py method=prompteol evaluation=sts"


@dataclass(frozen=True)
class GeometryRow:
    """A row with the geometry of its vectors on a task.

    Attributes:
        row: The row.
        task: STS-B, or its dev split.
        geometry: Alignment and uniformity.
    """

    row: Row
    task: str
    geometry: Geometry

    @property
    def score(self) -> float:
        """Spearman on the same pairs."""
        return self.row.scores[self.task].value


def find_geometry(rows: Sequence[Row]) -> list[GeometryRow]:
    """Returns the rows whose results hold alignment and uniformity, in order."""
    found = []
    for row in rows:
        for task in _TASKS:
            score = row.scores.get(task)
            if score is not None and score.is_verified and score.geometry is not None:
                found.append(GeometryRow(row, task, score.geometry))
                break
    return found


def geometry_blocks(rows: Sequence[Row]) -> Iterator[str]:
    """Yields the part of the page about alignment and uniformity; nothing without any."""
    found = find_geometry(rows)
    if not found:
        return
    yield "## Alignment and uniformity"
    yield (
        f"Of vectors of length 1 ({link(*PAPER)}); lower is better for both. Alignment is the mean "
        f"squared distance of the pairs with a gold score of {POSITIVE_FROM:g} or more, uniformity "
        "the logarithm of the mean of exp(-2 x squared distance) over all pairs of distinct "
        "sentences."
    )
    header = ["model", "method", "task", "alignment", "uniformity", "Spearman", "runs"]
    lines = [
        [
            escape(each.row.base),
            escape(each.row.name.text),
            title_of(each.task),
            f"{each.geometry.alignment:.3f}",
            f"{each.geometry.uniformity:.3f}",
            format_number(each.score),
            runs_cell([each.row]),
        ]
        for each in found
    ]
    yield table(header, lines, num_texts=3)
