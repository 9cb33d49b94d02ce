"""A prompt as a file that `prompt=NAME` accepts."""

from __future__ import annotations

import re
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, fields
from typing import Any

import yaml  # type: ignore[import-untyped]

from embedllm.config.groups import PromptConfig


class _Text(str):
    """Text that is written in quotes, so that no reader takes it for a number or a date."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes `_Text` in single quotes where they can hold it, else in double quotes."""


def _represent_text(dumper: Any, value: _Text) -> Any:
    style = "'" if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style=style)


_Dumper.add_representer(_Text, _represent_text)


def prompt_to_yaml(prompt: PromptConfig) -> str:
    """Returns the YAML text that composes to exactly this prompt.

    Everything that is not the default is written out, rather than a reference to another file,
    so that the text goes on to mean what it meant when it was written.
    """
    defaults = {
        f.name: f.default if f.default_factory is NO_DEFAULT else f.default_factory()
        for f in fields(prompt)
    }
    values = {k: v for k, v in asdict(prompt).items() if v != defaults[k]}
    if "demonstrations" in values:
        values["demonstrations"] = [
            {k: v for k, v in demonstration.items() if v is not None}
            for demonstration in values["demonstrations"]
        ]
    text: str = yaml.dump(
        _as_text(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text


def _as_text(value: Any) -> Any:
    """Returns plain values whose strings are quoted and hold no reference to other keys."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, str):
        # OmegaConf reads ${...} as the value of another key unless a backslash is in front.
        return _Text(re.sub(r"(\\*)\$\{", r"\1\1\\${", value))
    return value
