"""What ran: library versions, git revision, hardware."""

from __future__ import annotations

import platform
import subprocess
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embedllm import __version__
from embedllm.program import checkout

_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "bitsandbytes",
    "deepspeed",
    "pytorch-lightning",
    "torchmetrics",
    "datasets",
    "hydra-core",
    "numpy",
    "scipy",
)


def library_versions() -> dict[str, str]:
    """Returns the versions of Python, embedllm and the libraries that decide on numbers."""
    versions = {"python": platform.python_version(), "embedllm": __version__}
    for name in _LIBRARIES:
        versions[name] = installed_version(name) or "not installed"
    return versions


@cache
def installed_version(package: str) -> str | None:
    """Returns the version of a package; None where it is not installed.

    Asked once: what is loaded stays what it is, and each answer is a file to read.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def git_revision() -> str | None:
    """Returns the commit of the checkout this package runs from, `+changes` when it is dirty.

    Asked once: a checkout that moves on during a long run is not what the run was made with, so
    entry points call this first.

    None outside a checkout or without git.
    """
    root = checkout()
    if root is None:
        # Whatever repository an environment lies in is not the program's.
        return None
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return f"{revision}+changes" if _git(root, "status", "--porcelain") else revision
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


def hardware() -> dict[str, str | int]:
    """Returns processor, threads and GPU of this process."""
    import torch

    facts: dict[str, str | int] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
