"""What the training run scored, for the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedllm.files import sha256_of
from embedllm.log import get_logger
from embedllm.models.adapter_folder import DESCRIPTION_FILE

_log = get_logger(__name__)


def read_scores(adapter: Path) -> list[dict[str, str]]:
    """Returns what the run saved beside an adapter: task, before, after, metric, protocol.

    A result of another adapter, and a file that cannot be read, count as none.
    """
    records: dict[str, Mapping[str, Any]] = {}
    for name in ("before", "after"):
        try:
            path = adapter.resolve().parent / "results" / f"{name}.json"
            records[name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            records[name] = {}
    if not records["after"]:
        return []
    if records["after"].get("adapter_sha256") != sha256_of(adapter / DESCRIPTION_FILE):
        _log.warning("the run's results are of another adapter; the card has no scores")
        return []
    before = records["before"].get("tasks", {})
    return [
        {
            "task": name,
            "before": f"{before[name]['score']:.2f}" if name in before else "",
            "after": f"{task['score']:.2f}",
            "metric": task["metric"],
            "protocol": str(task.get("protocol") or task.get("probe") or ""),
        }
        for name, task in records["after"].get("tasks", {}).items()
    ]


def to_eval_results(scores: list[dict[str, str]]) -> list[Any]:
    """Returns scores as the hub shows them beside a card."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="STS" if row["metric"] == "spearman" else "Classification",
            dataset_type=row["task"],
            dataset_name=row["task"],
            metric_type=row["metric"],
            metric_value=float(row["after"]),
            metric_name=f"{row['metric']} x100 ({row['protocol']})",
        )
        for row in scores
    ]
