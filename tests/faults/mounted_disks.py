"""Small disks that a test mounts, fills and frees."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, mib: int = 24) -> Iterator[Path]:
    """Mounts a disk of some MiB, in memory, on a new folder; skips the test where none may."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount the small disk that is filled here")
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "embedllm-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all the room that a disk has left; returns the file to delete for getting it back."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            block = bytes(size)
            while True:
                try:
                    file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
    return path


def make_read_only(folder: Path) -> None:
    """Takes away everybody's right to write, root's too."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def make_writable(folder: Path) -> None:
    """Gives it back."""
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
