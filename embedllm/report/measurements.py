"""What the benchmarks measured: speed and memory beside other tools, and what the planner said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from embedllm.errors import ResultError
from embedllm.log import get_logger

# Of the folder; benchmarks/*.py write them.
_PATTERNS: Final = ("speed/*.json", "plan/*.json")

_log = get_logger(__name__)


@dataclass(frozen=True)
class SpeedRecord:
    """One comparison with other tools: encoding, or a step of training.

    Attributes:
        name: Name of the file without its ending.
        kind: `encode` or `train_step`.
        model: The model.
        what: What was done, in words.
        seconds: Median by contestant.
        memory_bytes: Peak memory by contestant, weights included; empty where not measured.
        command: What makes the record.
    """

    name: str
    kind: str
    model: str
    what: str
    seconds: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    command: str


@dataclass(frozen=True)
class PlanRow:
    """Peak memory of one training, as the planner says and as it was.

    Attributes:
        what: The configuration, in words.
        model: The model.
        estimate_bytes: What the planner says.
        measured_bytes: What it was.
    """

    what: str
    model: str
    estimate_bytes: float
    measured_bytes: float


@dataclass(frozen=True)
class Measurements:
    """All records of a folder.

    Attributes:
        speed: Comparisons, encoding first.
        plan: Estimates beside measurements.
        plan_command: What makes them.
    """

    speed: tuple[SpeedRecord, ...] = ()
    plan: tuple[PlanRow, ...] = ()
    plan_command: str = ""


def read_measurements(folder: Path, *, strict: bool) -> Measurements:
    """Returns the records in a folder; none when there is no such folder.

    Args:
        folder: Folder with `speed/` and `plan/`; records of other benchmarks are passed by.
        strict: Refuse a damaged file; else it is left out with a warning.

    Raises:
        ResultError: `strict` and a file is damaged.
    """
    speed, plan, command, faults = [], [], "", []
    for path in (path for pattern in _PATTERNS for path in sorted(folder.glob(pattern))):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            kind = record.get("benchmark")
            if kind in ("encode", "train_step"):
                speed.append(_parse_speed(path.stem, kind, record))
            elif kind == "plan_accuracy":
                plan += [_parse_plan(row) for row in record["rows"]]
                command = _show(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            faults.append(f"{path}: {type(error).__name__}: {error}")
    if faults and strict:
        raise ResultError(
            "\n".join([*faults, f"measurements={folder}: strict=false leaves such files out"])
        )
    if faults:
        _log.warning("left out %d measurements:\n%s", len(faults), "\n".join(faults))
    return Measurements(tuple(sorted(speed, key=lambda r: (r.kind, r.name))), tuple(plan), command)


def _parse_speed(name: str, kind: str, record: Mapping[str, Any]) -> SpeedRecord:
    if kind == "encode":
        number = record["num_sentences"]
        # Each sentence once, or as often as an evaluator passes it.
        parts = [f"encode {number} sentences"]
        parts += ["each once"] * (record["num_distinct"] == number)
        parts += ["demonstration"] * bool(record["demonstration"])
        what = ", ".join(parts)
    else:
        what = f"training step, {record['num_triplets']} triplets"
    return SpeedRecord(
        name=name,
        kind=kind,
        model=f"{record['model']}, {record['dtype']}",
        what=what,
        seconds={str(k): float(v) for k, v in record["median_seconds"].items()},
        memory_bytes={str(k): float(v) for k, v in record.get("peak_memory_bytes", {}).items()},
        command=_show(record),
    )


def _parse_plan(row: Mapping[str, Any]) -> PlanRow:
    parts = [
        row["dtype"],
        row["adapter"],
        *([row["quantization"]] if row["quantization"] != "none" else []),
        f"checkpointing {row['checkpointing']}",
        f"batch {row['batch']}",
        *([row["strategy"]] if row["strategy"] != "single" else []),
    ]
    what = ", ".join(map(str, parts))
    return PlanRow(what, str(row["model"]), float(row["estimate"]), float(row["measured"]))


def _show(record: Mapping[str, Any]) -> str:
    return shlex.join(map(str, record["command"]))
