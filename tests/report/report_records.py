"""Makes stored results for the tests of the report."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from stored_results import make_record, make_task

from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.results import StoredResult

DEV = "STSBenchmark-dev"
MODEL = {"name": "facebook/opt-125m", "pooling": "last", "layer": -1}
PROMPT = {"template": 'This sentence : "{sentence}" means in one word:"', "demonstrations": []}

_numbers = count()


def store_result(scores: dict[str, float] | None = None, **changes: Any) -> StoredResult:
    """Returns a result with STS scores; each call's is finished a second after the last one's."""
    number = next(_numbers)
    time = f"2026-01-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    record = make_record(scores, **({"finished": time, "model": MODEL, "prompt": PROMPT} | changes))
    return StoredResult(Path(f"{number:06d}.json"), record)


def store_method(label: str, scores: dict[str, float], **changes: Any) -> StoredResult:
    """Returns a result of a method; its prompt is one that no other method has."""
    words = ["Sports"] if label == "demonstration" else []
    prompt = {
        "template": f"{label}: {{sentence}}" if label != "demonstration" else PROMPT["template"],
        "demonstrations": [{"sentence": f"About {word}.", "word": word} for word in words],
    }
    pooling = "mean" if label in ("mean", "echo") else "last"
    model = {**MODEL, "pooling": pooling}
    if label == "token-prepending":
        model["token_prepending_layers"] = 7
    return store_result(scores, **({"label": label, "prompt": prompt, "model": model} | changes))


def store_transfer(
    scores: dict[str, float],
    *,
    seed: int = 42,
    probe: str = "logistic",
    folds: int = 10,
    verify: str = "strict",
    seconds: float = 2.0,
    **changes: Any,
) -> StoredResult:
    """Returns a result with transfer scores."""
    details = {"num_folds": folds, "verify": verify}
    tasks = {
        task: make_task(score, metric="accuracy", protocol=None, probe=probe, details=details)
        for task, score in scores.items()
    }
    timing = {"encode": 1.0, "tasks": dict.fromkeys(scores, seconds)}
    return store_result(tasks=tasks, seed=seed, timing=timing, **changes)


def seven(score: float) -> dict[str, float]:
    """Returns the same score on the seven STS tasks."""
    return dict.fromkeys(PAPER_TASKS, score)


def demonstration(word: str, sentence: str = "A man rides.") -> dict[str, Any]:
    """Returns the prompt with a demonstration."""
    return {**PROMPT, "demonstrations": [{"sentence": sentence, "word": word}]}


def make_summary(**changes: Any) -> dict[str, Any]:
    """Returns the summary of a search."""
    summary = {
        "winner": {"candidate": 59, "sentence": "A jockey.", "word": "Horses", "score": 73.1449},
        "baseline": 66.8312,
        "gain": 6.3137,
        "rungs": [
            {
                "pairs": 100,
                "candidates": 300,
                "baseline": 65.5,
                "min": 50.125,
                "lower_quartile": 60.25,
                "median": 64.5,
                "mean": 64.25,
                "upper_quartile": 68.75,
                "max": 75.5,
                "std": 3.5,
                "above_baseline": 0.47,
            }
        ],
        "cost": {"pairs": 80000, "exhaustive_pairs": 450000, "ratio": 0.177778},
        "agreement": {
            "rungs": [100, 1500],
            "keep": [90],
            "close_within": 0.2,
            "num_orders": 1000,
            "same_winner": 0.812,
            "close": 0.954,
            "mean_regret": 0.034,
            "max_regret": 0.81,
            "cost_ratio": 0.18,
        },
        "seconds": 3000.4,
        "unit_seconds": 5900.6,
        "schedule": {"rungs": [100], "keep": []},
        "num_candidates": 300,
        "candidates": "paper",
        "model": {"name": "facebook/opt-125m"},
        "dtype": "float32",
        "task": DEV,
        "seed": 42,
        "command": "python -m embedllm search model=opt-125m",
        "git_revision": None,
        "finished": "2026-11-23T12:00:00+00:00",
    }
    return summary | changes
