"""Four results of different kinds, and calls of `python -m embedllm results`."""

from __future__ import annotations

import json
from collections.abc import Callable

from stored_results import make_record, make_task
from tiny_runs import compose_typed

from embedllm.config import ResultsConfig

ICL_PROMPT = {
    "template": 'This sentence : "{sentence}" means in one word:"',
    "more_templates": ["Essence of {sentence}:"],
    "demonstrations": [{"sentence": "A jockey rides a horse.", "word": "Equestrian"}],
}
RECORDS = {
    "base": make_record(
        {"STS12": 60.0, "STSBenchmark": 70.0, "STSBenchmark-dev": 72.0},
        sts=65.0,
        model_choice="smollm2-135m",
        finished="2026-01-01T00:00:00+00:00",
    ),
    "tuned": make_record(
        {"STSBenchmark": 80.0, "STS12": 75.0},
        sts=77.5,
        label="Ours",
        model_choice="smollm2-135m",
        adapter="outputs/nli/adapter",
        finished="2026-01-03T09:00:00+00:00",
    ),
    "icl": make_record(
        {"STSBenchmark": 75.0},
        sts=75.0,
        transfer=81.5,
        prompt=ICL_PROMPT,
        dtype="bfloat16",
        finished="2026-01-02T23:30:00-01:00",
    ),
    "probes": make_record(
        sts=None,
        transfer=85.25,
        tasks={"MR": make_task(85.25, metric="accuracy", protocol=None, probe="senteval")},
        adapter="shared/adapters/llama-lora",
        finished="2026-01-02T12:00:00+00:00",
    ),
}
NEWEST_FIRST = ["tuned", "icl", "probes", "base"]

ListResults = Callable[..., str]
"""Lists the results with some overrides and returns what comes to stdout."""


def compose_results(*overrides: str) -> ResultsConfig:
    """Returns the config that the command would get."""
    config = compose_typed("results", *overrides)
    assert isinstance(config, ResultsConfig)
    return config


def run_names(text: str) -> list[str]:
    """Returns the names of the runs in a list that was written as JSON."""
    return [record["run_name"] for record in json.loads(text)]
