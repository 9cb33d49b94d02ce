"""Clocks for benchmarks: contestants take turns in one process, and medians are compared.

Machines are shared and noisy, so a figure alone says little; a ratio between contestants that took
turns within seconds of each other does.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedllm.versions import git_revision, hardware, library_versions


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant, one entry for each turn."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the turns."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest over fastest turn."""
        return max(self.seconds) / min(self.seconds)


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], *, repeats: int, warm_up: bool = True
) -> dict[str, Timing]:
    """Runs all contestants in turn, `repeats` times, and returns their timings.

    Args:
        contestants: What to run, by name.
        repeats: Turns of each that count.
        warm_up: One turn before that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + warm_up):
        for name, run in contestants.items():
            gc.collect()
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if turn >= warm_up:
                seconds[name].append(elapsed)
            label = f"turn {turn + 1 - warm_up} of {repeats}" if turn >= warm_up else "warm-up"
            sys.stderr.write(f"{label}: {name} {elapsed:.2f} s\n")
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def to_table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Writes a benchmark's result with what it ran on."""
    if path is None:
        return
    origin = {
        "versions": library_versions(),
        "hardware": hardware(),
        "git_revision": git_revision(),
        "command": ["python", *sys.argv],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**record, **origin}, indent=2) + "\n", encoding="utf-8")
