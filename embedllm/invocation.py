"""How a command was called: what an entry point hands down besides the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Invocation:
    """How the task was called.

    Attributes:
        overrides: The command-line overrides, without Hydra's own.
        folder: The run's folder; in a sweep each job has its own.
        conf_dir: Folder of the configuration files.
        choices: The chosen option of each config group, `model: smollm2-135m` for example.
    """

    overrides: list[str]
    folder: Path
    conf_dir: Path = Path("conf")
    choices: dict[str, str] = field(default_factory=dict)
