"""Small training files, and what a script that fails may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

HEADER = "sent0,sent1,hard_neg\n"
ROWS = "".join(f"anchor {i},positive {i},negative {i}\n" for i in range(8))

Script = Callable[..., str]
"""Runs a script of the repository that must fail, and returns its message."""


def only_message(stderr: str) -> str:
    """Returns the message of a process that left nothing else behind."""
    lines = f"\n{stderr}".split("\nerror: ")
    assert len(lines) == 2, stderr
    assert "Traceback" not in stderr
    assert "Error executing job" not in stderr
    return lines[1]


def write_file(folder: Path, content: str | bytes, name: str = "train.csv") -> Path:
    """Returns the path of a new file."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
