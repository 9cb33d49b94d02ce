"""Makes records that fit the schema of the results store."""

from __future__ import annotations

from typing import Any


def make_task(score: float = 70.0, **changes: Any) -> dict[str, Any]:
    """Returns one task of a record; keywords change its keys."""
    task = {
        "score": score,
        "metric": "spearman",
        "protocol": "paper",
        "probe": None,
        "num_examples": 1379,
        "details": {"subsets": {"all": score}},
    }
    return task | changes


def make_record(
    scores: dict[str, float] | None = None,
    *,
    sts: float | None = 70.0,
    transfer: float | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Returns a record with these scores and averages; further keywords change its keys."""
    tasks = {task: make_task(score) for task, score in (scores or {"STSBenchmark": 70.0}).items()}
    record = {
        "schema": 1,
        "kind": "evaluation",
        "run_name": "first",
        "label": None,
        "model": {"name": "facebook/opt-125m", "revision": None, "layer": -1, "architecture": {}},
        "model_choice": None,
        "adapter": None,
        "adapter_sha256": None,
        "prompt": {"template": 'This sentence : "{sentence}" means', "demonstrations": []},
        "dtype": "float32",
        "tasks": tasks,
        "averages": {"sts": sts, "transfer": transfer},
        "data": {"STSBenchmark": {"test": {"num_pairs": 1379, "sha256": "0" * 64}}},
        "seed": 42,
        "seconds": 1.5,
        "timing": {"encode": 1.25},
        "versions": {"torch": "2.13.0"},
        "hardware": {"machine": "x86_64", "threads": 1},
        "git_revision": None,
        "command": ["evaluate.py", "model=opt-125m"],
        "finished": "2026-11-23T08:55:07+00:00",
    }
    return record | changes
