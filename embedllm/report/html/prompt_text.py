"""The prompt of a record as the model reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from embedllm.config import DemonstrationConfig, PromptConfig
from embedllm.errors import EmbedllmError
from embedllm.prompts.template import PREPENDED, SLOT, Prompt, build_more_prompts, build_prompt

_SLOT: Final = f"{{{SLOT}}}"


def show_prompt(record: Mapping[str, Any]) -> str:
    """Returns all prompts of a record, a line each, with `{sentence}` where the sentence goes.

    A record that another version wrote, and that makes no prompt here, shows its template.
    """
    known = {field.name for field in fields(PromptConfig)}
    values = {key: value for key, value in record.items() if key in known}
    try:
        demonstrations = [DemonstrationConfig(**d) for d in values.pop("demonstrations", [])]
        config = PromptConfig(**values, demonstrations=demonstrations)
        prompts = [build_prompt(config), *build_more_prompts(config)]
    except (EmbedllmError, TypeError):
        return str(record["template"])
    return "\n".join(map(_show, prompts))


def _show(prompt: Prompt) -> str:
    before = prompt.before_prepended
    start = "" if before is None else f"{before}{{{PREPENDED}}}"
    return f"{start}{_SLOT.join(prompt.literals)}".strip()
