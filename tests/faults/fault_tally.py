"""What was tried, and what was lost: the rows of the table in docs/operations.md."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tiny_runs import read_json

from embedllm.files import write_json
from embedllm.versions import git_revision, hardware, library_versions


@dataclass
class Row:
    """One fault.

    Attributes:
        times: How often it was tried.
        steps_lost: Optimizer steps that had to be made again, each time.
        data_lost: Saved files that were gone or changed afterwards, in all.
    """

    times: int = 0
    steps_lost: list[int] = field(default_factory=list)
    data_lost: int = 0


class Tally:
    """Counts by fault."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.figures: dict[str, dict[str, float]] = {}

    def add(self, fault: str, *, steps_lost: Iterable[int] = (0,), data_lost: int = 0) -> None:
        """Notes a fault that was tried once for each entry of `steps_lost`."""
        lost = list(steps_lost)
        row = self.rows.setdefault(fault, Row())
        row.times += len(lost)
        row.steps_lost += lost
        row.data_lost += data_lost

    def note(self, name: str, figures: dict[str, float]) -> None:
        """Notes other figures."""
        self.figures[name] = figures

    def write(self, path: Path) -> None:
        """Adds the rows to a file, in place of older ones, and what they were measured with."""
        older = {"faults": {}, "figures": {}} | (read_json(path) if path.exists() else {})
        facts = {
            "git_revision": git_revision(),
            "hardware": {**hardware(), "processors": os.cpu_count()},
            "versions": library_versions(),
        }
        rows = older["faults"] | {name: asdict(row) for name, row in self.rows.items()}
        figures = older["figures"] | self.figures
        write_json(path, {"faults": dict(sorted(rows.items())), "figures": figures, **facts})


def read_saved(output: Path) -> dict[str, bytes]:
    """Returns everything below an output folder that a run has finished and must never lose."""
    patterns = ("run/results/*.json", "run/adapter/*", "results/*.json", "run/run.json")
    paths = (path for pattern in patterns for path in sorted(output.glob(pattern)))
    return {str(p.relative_to(output)): p.read_bytes() for p in paths if not p.name.startswith(".")}


def count_lost(before: dict[str, bytes], after: dict[str, bytes]) -> int:
    """Returns how many saved files are gone or have another content."""
    return sum(after.get(name) != content for name, content in before.items())
