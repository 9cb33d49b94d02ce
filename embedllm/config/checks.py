"""Checks of single values, with one wording for all messages."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Final

from embedllm.errors import ConfigError

# File systems allow 255; marks of unfinished files are put around it.
_MAX_NAME_BYTES: Final = 200
_SHOWN: Final = 40


def one_of(key: str, value: object, allowed: Collection[object]) -> None:
    """Raises ConfigError when `value` is not among `allowed`; `key` is the config key."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not known; allowed: {', '.join(map(str, allowed))}")


def plain_name(key: str, value: str) -> None:
    """Raises ConfigError for a name that leads out of its folder or makes no file's name.

    Args:
        key: The config key.
        value: The name, of which folders, artifacts and ids are made.
    """
    is_plain = value.isprintable() and Path(value).name == value and value not in ("", ".", "..")
    if not is_plain or len(value.encode(errors="replace")) > _MAX_NAME_BYTES:
        shown = value if len(value) <= 2 * _SHOWN else f"{value[:_SHOWN]}...{value[-_SHOWN:]}"
        raise ConfigError(
            f"{key}={shown!r} must be a plain folder name: no slash, no line end or other control "
            f"character, not empty, at most {_MAX_NAME_BYTES} bytes"
        )


def at_least(key: str, value: float | None, minimum: float, *, strictly: bool = False) -> None:
    """Raises ConfigError when a number is below its minimum; None means no limit and passes."""
    if value is None:
        return
    # NaN is smaller than nothing and infinity larger than all, but both are wrong everywhere.
    if not math.isfinite(value) or value < minimum or (strictly and value == minimum):
        relation = "greater than" if strictly else "at least"
        raise ConfigError(f"{key}={value} is out of range; it must be {relation} {minimum}")
