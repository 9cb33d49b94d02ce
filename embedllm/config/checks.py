"""Checks of single values, with one wording for all messages."""

from __future__ import annotations

import math
from collections.abc import Collection

from embedllm.errors import ConfigError


def one_of(key: str, value: object, allowed: Collection[object]) -> None:
    """Raises ConfigError when `value` is not among `allowed`; `key` is the config key."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not known; allowed: {', '.join(map(str, allowed))}")


def at_least(key: str, value: float | None, minimum: float, *, strictly: bool = False) -> None:
    """Raises ConfigError when a number is below its minimum; None means no limit and passes."""
    if value is None:
        return
    # NaN is smaller than nothing and infinity larger than all, but both are wrong everywhere.
    if not math.isfinite(value) or value < minimum or (strictly and value == minimum):
        relation = "greater than" if strictly else "at least"
        raise ConfigError(f"{key}={value} is out of range; it must be {relation} {minimum}")
