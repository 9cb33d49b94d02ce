"""The memory of this machine, as far as this process may use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

_GROUPS: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")


def host_memory(*, only_free: bool) -> int:
    """Returns the bytes of this machine's memory, no more than a container or a job may have.

    Args:
        only_free: Only what could be had now without swapping.
    """
    memory = psutil.virtual_memory()
    here: int = memory.available if only_free else memory.total
    return min([here, *_limits()])


def _limits() -> Iterator[int]:
    """Yields the limits of this process' control groups, its own and those around it.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max), for the older version
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.limit_in_bytes).
    """
    lines = _GROUPS.read_text(encoding="utf-8").splitlines() if _GROUPS.exists() else []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, name = _MOUNT, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _MOUNT / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = root / path.lstrip("/")
        # A container may see its group as the root, whatever the path says.
        for folder in (own, *own.parents):
            if folder.is_relative_to(root) and (folder / name).is_file():
                limit = (folder / name).read_text(encoding="utf-8").strip()
                if limit.isdecimal():
                    yield int(limit)
