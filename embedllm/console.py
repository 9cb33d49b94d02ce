"""Results on stdout: one form for people and one for scripts, the same for every command.

Stdout carries the result and nothing else; log lines, progress and errors go to stderr (`log.py`,
`progress.py`). Into a file or pipe there are no colours and nothing is folded or cut at 80 columns.
Colours follow rich: none where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from embedllm.errors import ResultError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# A file or a pipe has no right edge to fold at.
_WIDTH_WITHOUT_TERMINAL: Final = 10_000


def show_result(
    record: Mapping[str, Any] | Sequence[Any],
    draw: Callable[[Console], None],
    *,
    format: str,  # noqa: A002
) -> None:
    """Writes what a command found to stdout.

    Args:
        record: The result as plain values.
        draw: Prints the same for people.
        format: `console.format`.

    Raises:
        ResultError: Stdout cannot be written (a file on a full disk); a reader that is gone
            (`head`) is fine.
    """
    try:
        if format == "json":
            sys.stdout.write(f"{json.dumps(record, default=str)}\n")
        else:
            draw(result_console())
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more when it ends; that has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise ResultError(f"the result cannot be written to stdout: {error}") from error


def result_console() -> Console:
    """Returns the console on stdout: as wide as its terminal, and without an edge elsewhere."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(width=None if is_terminal else _WIDTH_WITHOUT_TERMINAL)


def print_line(console: Console, text: str) -> None:
    """Prints a line as it is, brackets and all, for the terminal to wrap."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def result_table(title: str | None = None) -> Table:
    """Returns an empty table in the style that all commands share."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
