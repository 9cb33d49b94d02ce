"""Files that are either whole or absent: checksums, atomic writes, atomic folders."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from embedllm.errors import CheckpointError, earlier_error

_MAX_NAME_CHARACTERS = 100
_WRITE_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_plain_name(text: str) -> str:
    """Returns a text of letters, digits, `_`, `-` and `.` that is no path and no hidden name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")
    return name[:_MAX_NAME_CHARACTERS] or "unnamed"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, also after a crash, sees the old or the new content.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written; the old file stays.
    """
    with new_file(path) as file:
        file.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a scratch file beside `path` that becomes `path` when the block succeeds.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written; the old file stays.
    """
    with as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, work = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes a file private to its owner; the result is an ordinary one.
            Path(work).chmod(_file_mode())
            Path(work).replace(path)
        except BaseException:
            Path(work).unlink(missing_ok=True)
            raise


@cache
def _file_mode() -> int:
    """Returns the mode that this process gives to new files, 0o644 with the usual umask."""
    # There is no way to ask for the umask but to set it.
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields a scratch folder beside `target` that becomes `target` when the block succeeds.

    An existing `target` is replaced; between the two renames there is a moment without one, so
    callers who need the old one at any moment use a new name instead.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written; the old one stays.
    """
    with as_write_error(target):
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


@contextmanager
def as_write_error(path: Path) -> Iterator[None]:
    """Turns a full, read-only or broken disk into one message.

    Args:
        path: What is written, for errors that do not name it.

    Raises:
        CheckpointError: The block ended in such an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRNOS:
            raise
        # Libraries that close their files after an error fail anew; the first error says more.
        if (first := earlier_error(error)) is not None:
            raise first from None
        # The name of scratch files says less than that of what they become.
        place = error.filename if path.is_dir() else None
        raise _write_error(Path(place or path), error) from error
    except SafetensorError as error:
        # safetensors writes outside Python and reports the disk's errors as text.
        if not any(os.strerror(number) in str(error) for number in _WRITE_ERRNOS):
            raise
        raise _write_error(path, error) from error


def _write_error(path: Path, error: Exception) -> CheckpointError:
    reason = error.strerror if isinstance(error, OSError) else error
    return CheckpointError(
        f"{path} cannot be written: {reason} ({free_space(path)}). What was saved before is still "
        "there, and the same command goes on from it; make room, or set paths.output_dir "
        "(paths.cache_dir for converted models) to another disk"
    )


def free_space(path: Path) -> str:
    """Returns how much room there is where a file or folder is, or would be: `12.3 MiB free`."""
    folder = next(place for place in path.absolute().parents if place.is_dir())
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError as error:
        return f"free space unknown: {error.strerror}"
