"""The libraries that only the HTML page needs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from embedllm.errors import ConfigError

_LIBRARIES: Final = ("jinja2", "itables", "matplotlib", "markdown_it")


def check_libraries() -> None:
    """Raises ConfigError when one of the libraries is not installed."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the HTML page needs {', '.join(missing)}; pip install 'embedllm[report]' brings what "
            "is missing, and html=null makes the Markdown tables alone"
        )
