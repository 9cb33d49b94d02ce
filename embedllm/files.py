"""Files that are either whole or absent: checksums, atomic writes, atomic folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, also after a crash, sees the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, work = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(work).replace(path)
    except BaseException:
        Path(work).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields a scratch folder beside `target` that becomes `target` when the block succeeds.

    An existing `target` is replaced; between the two renames there is a moment without one, so
    callers who need the old one at any moment use a new name instead.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield work
        for path in work.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        # mkdtemp makes the folder private to its owner; the result is an ordinary one.
        work.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
