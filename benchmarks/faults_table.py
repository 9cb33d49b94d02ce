"""Prints the table of faults in docs/operations.md from what the tests have recorded.

python -m pytest tests/faults -m "slow or not slow" --faults-record FILE
python benchmarks/faults_table.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def build_table(record: dict[str, Any]) -> str:
    """Returns the table of a record as Markdown."""
    lines = ["| fault | times tried | lost work (steps) | lost data |", "| --- | --- | --- | --- |"]
    for name, row in sorted(record["faults"].items()):
        steps, data = _describe(row["steps_lost"]), row["data_lost"] or "none"
        lines.append(f"| {name} | {row['times']} | {steps} | {data} |")
    return "\n".join(lines)


def _describe(steps: list[int]) -> str:
    """Returns `0 to 3, on average 1.7`."""
    low, high = min(steps), max(steps)
    if low == high:
        return str(low)
    return f"{low} to {high}, on average {sum(steps) / len(steps):.1f}"


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    sys.stdout.write(f"{build_table(json.loads(text))}\n")
