"""What identifies a configuration: the values that decide the outcome, and their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from embedllm.config.commands import TrainConfig

_MAX_SHOWN = 5
# Keys that change where or what is reported but not what is trained.
_NOT_IN_FINGERPRINT = (
    "run_name",
    "sweep_name",
    "swept_keys",
    "num_trials",
    "resume",
    "paths",
    "logger",
    "console",
    "strategy",
)
_NOT_IN_FINGERPRINT_NESTED = {
    "trainer": (
        "log_every_n_steps",
        "checkpoint_every_n_steps",
        # How a run is spread stands in its checkpoints.
        "devices",
        "num_nodes",
        # The numbers stay the same, so a run that has no memory left can go on with it.
        "activation_checkpointing",
        # A run that has stopped may go on without the step that stopped it.
        "on_nan",
    ),
    "evaluation": ("tokens_per_batch", "cache_vectors", "share_prefix"),
}


def training_identity(config: TrainConfig) -> dict[str, Any]:
    """Returns the part of the config that decides which adapter comes out, as plain values."""
    return training_identity_of(asdict(config))


def training_identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the same of the plain values of a config."""
    values = {k: v for k, v in config.items() if k not in _NOT_IN_FINGERPRINT}
    for group, keys in _NOT_IN_FINGERPRINT_NESTED.items():
        values[group] = {k: v for k, v in values[group].items() if k not in keys}
    return values


def is_in_identity(key: str) -> bool:
    """Whether a dotted key, or a group, has a say in which adapter comes out."""
    group, _, rest = key.partition(".")
    is_nested_out = rest in _NOT_IN_FINGERPRINT_NESTED.get(group, ())
    return group not in _NOT_IN_FINGERPRINT and not is_nested_out


def fingerprint(values: dict[str, Any]) -> str:
    """Returns 16 hexadecimal digits that identify plain config values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested config values under dotted keys (`trainer.max_steps`)."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def describe_differences(saved: dict[str, Any], current: dict[str, Any]) -> str:
    """Returns which nested config values differ, for the message that refuses another call."""
    # Saved values come from JSON, which has no tuples.
    left, right = (flatten(json.loads(json.dumps(v, default=str))) for v in (saved, current))
    keys = sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))
    shown = [f"{k}: was {left.get(k)!r}, is {right.get(k)!r}" for k in keys[:_MAX_SHOWN]]
    if len(keys) > _MAX_SHOWN:
        shown.append(f"and {len(keys) - _MAX_SHOWN} more")
    return "; ".join(shown)
