"""Commands as the documentation prints them, for the tests that run them."""

from __future__ import annotations

import re
import shlex
from typing import Final

from embedllm.entry import CONF_DIR

ROOT = CONF_DIR.parent
# What a command in a block without a language begins with.
_PROGRAM: Final = re.compile(r"(python|make|srun|sbatch|torchrun|pip|wandb|embedllm) ")


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


def pages() -> list[str]:
    """Returns the README and all pages of docs/, as paths in the repository."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def shown_commands(page: str) -> list[str]:
    """Returns every command in the fenced blocks of a page, one line each, without its comment."""
    commands = []
    for language, body in _blocks(page):
        lines = body.replace("\\\n", " ").splitlines()
        lines = [" ".join(line.split("  #")[0].split()) for line in lines]
        is_shell = language in ("bash", "sh", "shell", "console")
        commands += [
            line
            for line in lines
            if line and not line.startswith("#") and (is_shell or _PROGRAM.match(line))
        ]
    return list(dict.fromkeys(commands))


def documented_keys(command: str) -> set[str]:
    """Returns the keys that docs/terminal.md names for the JSON of a command."""
    text = (ROOT / "docs/terminal.md").read_text(encoding="utf-8")
    [cell] = re.findall(rf"^\| `{re.escape(command)}` \| (.*) \|$", text, re.MULTILINE)
    # Names of files and of configuration keys have a dot.
    return set(re.findall(r"`(\w+)`", cell))


def snippets(page: str) -> list[str]:
    """Returns the Python of a page, block by block."""
    return [body for language, body in _blocks(page) if language in ("python", "py")]


def _blocks(page: str) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    # A block that says it is something else (text, yaml) shows what a command prints.
    return [(language, body) for language, body in found if language not in ("text", "yaml")]
