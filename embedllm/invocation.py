"""How a command was called: what an entry point hands down besides the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedllm.config.console import ConsoleConfig
from embedllm.console import show_result

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Invocation:
    """How the task was called.

    Attributes:
        overrides: The command-line overrides, without Hydra's own.
        folder: The run's folder; in a sweep each job has its own.
        conf_dir: Folder of the configuration files.
        choices: The chosen option of each config group, `model: smollm2-135m` for example.
        console: How to speak.
    """

    overrides: list[str]
    folder: Path
    conf_dir: Path = Path("conf")
    choices: dict[str, str] = field(default_factory=dict)
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def show(
        self, record: Mapping[str, Any] | Sequence[Any], draw: Callable[[Console], None]
    ) -> None:
        """Writes the command's result to stdout, for people or for scripts.

        Args:
            record: The result as plain values.
            draw: Prints the same for people.
        """
        show_result(record, draw, format=self.console.format)
