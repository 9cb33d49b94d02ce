"""How this program is called: `python train.py` in a checkout, `embedllm train` where installed.

What is printed for people to type is made here, so that it can be typed where they are.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Final

_SCRIPTS: Final = ("train", "evaluate")
_CONSOLE_SCRIPT: Final = "embedllm"
_PACKAGE: Final = Path(__file__).resolve().parent
_WRITTEN: Final = re.compile(r"\bpython (?:-m embedllm (\w+)|(train|evaluate)\.py)")


def words(name: str) -> list[str]:
    """Returns the words that start a command in the shell.

    Args:
        name: `train`, `evaluate` or another command.
    """
    if _console_script() is not None:
        return [_CONSOLE_SCRIPT, name]
    if (script := _script(name)) is not None:
        return ["python", os.path.relpath(script)]
    return ["python", "-m", "embedllm", name]


def shown(name: str) -> str:
    """Returns `words` as one text, for messages."""
    return shlex.join(words(name))


def as_called(text: str) -> str:
    """Returns a text that names commands as in a checkout, with what they are called here."""
    return _WRITTEN.sub(lambda found: shown(found[1] or found[2]), text)


def on_page(text: str) -> str:
    """Returns a text `as_called`, for a page that others read: without the way to a checkout."""
    return text if checkout() is not None else as_called(text)


def arguments(name: str) -> list[str]:
    """Returns what the interpreter gets to run a command in another process."""
    if (console := _console_script()) is not None:
        return [str(console), name]
    script = _script(name)
    return [str(script)] if script is not None else ["-m", "embedllm", name]


def checkout() -> Path | None:
    """Returns the root of the repository that this package runs from; None where installed."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "train.py").is_file() else None


def conf_dir() -> Path:
    """Returns the folder of the configuration files: a part of the wheel, `conf/` in a checkout."""
    installed = _PACKAGE / "conf"
    return (installed if installed.is_dir() else _PACKAGE.parent / "conf").resolve()


def _script(name: str) -> Path | None:
    root = checkout()
    return root / f"{name}.py" if root is not None and name in _SCRIPTS else None


def _console_script() -> Path | None:
    """Returns the file that pip made for `embedllm`, if that is what runs."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file) if file and Path(file).stem == _CONSOLE_SCRIPT else None
