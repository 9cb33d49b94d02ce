"""The fingerprint sees what matters for a training, and nothing else."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from tiny_runs import compose_train

from embedllm.config import TrainConfig, fingerprint, flatten, training_identity


def _fingerprint(*overrides: str) -> str:
    return fingerprint(training_identity(compose_train("debug=tiny", *overrides)))


def test_the_fingerprint_is_stable() -> None:
    first = _fingerprint("run_name=a")
    assert first == _fingerprint("run_name=a")
    assert len(first) == 16
    assert int(first, 16)
    # Neither the order of keys nor a default spelled out counts.
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert first == _fingerprint("trainer.learning_rate=5e-4", "seed=42")


def test_the_fingerprint_does_not_change_between_versions() -> None:
    # Computed once; another value would lock everybody out of their unfinished runs.
    assert fingerprint({"seed": 42, "trainer": {"learning_rate": 5e-4, "max_steps": None}}) == (
        "3915010eeb3c6bd6"
    )


@pytest.mark.parametrize(
    "override",
    [
        "run_name=other",
        "sweep_name=any",
        "swept_keys=[strategy]",
        "num_trials=3",
        "resume=never",
        "paths.output_dir=elsewhere",
        "paths.cache_dir=elsewhere",
        "logger=wandb",
        "logger.tags=[a]",
        "trainer.log_every_n_steps=7",
        "trainer.checkpoint_every_n_steps=7",
        "trainer.activation_checkpointing=packs",
        "evaluation.tokens_per_batch=7",
    ],
)
def test_where_and_what_is_reported_does_not_count(override: str) -> None:
    assert _fingerprint(override) == _fingerprint()


def _changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, 1] if isinstance(value, list) else f"{value}x"


def test_everything_else_counts() -> None:
    identity = training_identity(compose_train("debug=tiny"))
    flat = flatten(identity)
    assert len(flat) > 60
    expected = fingerprint(identity)
    seen = {expected}
    for key, value in flat.items():
        changed = fingerprint({**flat, key: _changed(value)})
        assert changed not in seen, key
        seen.add(changed)
    assert {key.split(".")[0] for key in flat} == {f.name for f in fields(TrainConfig)} - {
        "run_name",
        "sweep_name",
        "swept_keys",
        "num_trials",
        "resume",
        "paths",
        "logger",
        "console",
        # How a run is spread stands in its checkpoints.
        "strategy",
    }


@pytest.mark.parametrize(
    "override", ["seed=43", "loss.temperature=0.06", "adapter.options.r=8", "trainer.max_steps=9"]
)
def test_what_is_trained_counts(override: str) -> None:
    assert _fingerprint(override) != _fingerprint()


def test_flatten_keeps_lists_and_empty_values() -> None:
    values = {"a": {"b": [1, 2], "c": {}, "d": {"e": None}}, "f": 0}
    assert flatten(values) == {"a.b": [1, 2], "a.c": {}, "a.d.e": None, "f": 0}
