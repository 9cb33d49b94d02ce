"""Commands as the documentation prints them, for the tests that run them."""

from __future__ import annotations

import shlex

from embedllm.entry import CONF_DIR

ROOT = CONF_DIR.parent


def documented(command: str, *, page: str = "docs/operations.md") -> list[str]:
    """Returns the words of a command, after checking that a page shows it, letter by letter.

    Args:
        command: One line of a code block, without the comment behind it.
        page: Path of the page in the repository.
    """
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [" ".join(line.split("  #")[0].split()) for line in text.splitlines()]
    assert command in lines, f"{page} does not show: {command}"
    return shlex.split(command)
