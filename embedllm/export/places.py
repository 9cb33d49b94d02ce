"""Names that are paths of this machine, which nothing that is passed on may have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from embedllm.data.records import FILE_SUFFIXES

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_local(name: str, adapter: Path) -> bool:
    """Whether a model or data set is a file or folder of this machine, and not of the hub.

    Args:
        name: As `model.name` or `data.path` gave it.
        adapter: The adapter folder. A relative path began where training was started: most often
            in a folder above it, which need not be the one that this process runs in.
    """
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return True
    if name.lower().endswith(FILE_SUFFIXES):
        return True
    return any((place / name).exists() for place in (Path.cwd(), *adapter.resolve().parents))


def public_name(name: str, adapter: Path) -> str | None:
    """Returns the owner/name of a model or data set on the hub; None for anything else."""
    return name if _HUB_NAME.fullmatch(name) and not is_local(name, adapter) else None


def without_places(value: Any, adapter: Path) -> Any:
    """Returns a JSON value with the last part alone of every text in it that is a path."""
    if isinstance(value, dict):
        return {key: without_places(item, adapter) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item, adapter) for item in value]
    if isinstance(value, str) and "/" in value and is_local(value, adapter):
        return Path(value).name
    return value
