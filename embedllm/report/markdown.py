"""Text to Markdown that shows exactly this text, whatever is in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MISSING: Final = "-"

# What begins or ends something else than plain text within a line, in CommonMark, in GitHub's
# tables or in its formulas. An underscore within a word, an ampersand without a name behind it and
# a lone angle bracket do not.
_SPECIAL: Final = re.compile(
    r"[\\`*\[\]|~$#]|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
)


def escape(text: str) -> str:
    """Returns plain text on one line; `-` for a text without anything to see.

    It may stand in a cell, in a heading or within a sentence, but not at the start of a line,
    where it could begin a list.
    """
    visible = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(visible.split())
    return _SPECIAL.sub(r"\\\g<0>", line) or MISSING


def code(text: str) -> str:
    """Returns inline code. Not for cells: no escape keeps a bar after a backslash whole there.

    Line feeds and other characters that cannot be seen are written as Python's escapes.
    """
    visible = "".join(c if c.isprintable() else _escape_character(c) for c in text)
    longest = max((len(run) for run in re.findall("`+", visible)), default=0)
    fence = "`" * (longest + 1)
    # One space at both ends is taken away again; without it a backtick would join the fence.
    pad = " " if visible[:1] in ("`", " ", "") or visible[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{visible}{pad}{fence}"


def link(text: str, url: str) -> str:
    """Returns a link with an escaped text."""
    return f"[{escape(text)}]({url})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_texts: int = 1) -> str:
    """Returns a table of cells that are Markdown already.

    Args:
        header: Headings; the table has as many columns.
        rows: Cells.
        num_texts: So many first columns are texts, the others numbers, flush right.

    Raises:
        ValueError: A row has another number of cells, or a cell more than one line.
    """
    rule = ["---" if position < num_texts else "---:" for position in range(len(header))]
    lines = []
    for cells in (header, rule, *rows):
        if len(cells) != len(header) or any("\n" in cell for cell in cells):
            raise ValueError(f"{list(cells)} is no row of {len(header)} cells")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def join_words(words: Sequence[str]) -> str:
    """Returns `a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _escape_character(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
