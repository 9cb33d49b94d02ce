"""How every command speaks: tables for people or JSON for scripts, and how much on stderr."""

from __future__ import annotations

from dataclasses import dataclass

from embedllm.config.checks import one_of

CONSOLE_FORMATS = ("text", "json")


@dataclass
class ConsoleConfig:
    """What goes to stdout (the result alone) and to stderr (everything else)."""

    format: str = "text"
    """`text`: tables and lines, for people; `json`: the result as one line of JSON."""
    quiet: bool = False
    """Warnings and errors alone on stderr: no progress, no log lines. Log files stay whole."""

    def __post_init__(self) -> None:
        one_of("console.format", self.format, CONSOLE_FORMATS)
