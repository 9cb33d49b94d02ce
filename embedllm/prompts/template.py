"""Prompt templates: literal text, sentence slots, demonstrations."""

from __future__ import annotations

import string
from dataclasses import dataclass

from embedllm.config import PromptConfig
from embedllm.errors import ConfigError
from embedllm.prompts.clean_up import CLEAN_UPS

SLOT = "sentence"


@dataclass(frozen=True)
class Demonstration:
    """A sentence and the word that stands for its meaning."""

    sentence: str
    word: str


@dataclass(frozen=True)
class Prompt:
    """How a sentence becomes the text that the model reads.

    Attributes:
        literals: Literal text around the slots: `literals[0] S literals[1] S ...`.
        clean_up: Name in `CLEAN_UPS`, applied to the sentence first.
        max_sentence_tokens: The sentence, never the template, is cut to so many tokens.
    """

    literals: tuple[str, ...]
    clean_up: str = "none"
    max_sentence_tokens: int | None = None

    def clean(self, sentence: str) -> str:
        """Returns the cleaned sentence, still outside the template."""
        return CLEAN_UPS[self.clean_up](sentence)

    def fill(self, cleaned_sentence: str) -> str:
        """Returns the finished prompt, white space stripped from both ends (paper_method 1.1).

        Literal text is never searched for slots again, so braces, quotes or slot names inside
        a sentence stay what they are.
        """
        return cleaned_sentence.join(self.literals).strip()

    def render(self, sentence: str) -> str:
        """Returns the finished prompt of a raw sentence (no token budget applied)."""
        return self.fill(self.clean(sentence))


def parse_template(template: str) -> tuple[str, ...]:
    """Splits a template at its sentence slots.

    Args:
        template: Literal text with at least one `{sentence}`; `{{` and `}}` are braces.

    Returns:
        One more literal than there are slots.

    Raises:
        ConfigError: Unbalanced braces, another slot name, or no slot.
    """
    key = "prompt.template"
    literals: list[str] = [""]
    try:
        for text, name, spec, conversion in string.Formatter().parse(template):
            literals[-1] += text
            if name is None:
                continue
            if name != SLOT or spec or conversion:
                raise ConfigError(
                    f"{key} has the slot {{{name}}}; only {{{SLOT}}} is known "
                    f"(write {{{{ and }}}} for literal braces): {template!r}"
                )
            literals.append("")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{key}: {error} in {template!r}") from error
    if len(literals) == 1:
        raise ConfigError(f"{key} has no {{{SLOT}}} slot: {template!r}")
    return tuple(literals)


def build_prompt(config: PromptConfig, *, training: bool = False) -> Prompt:
    """Returns the prompt of a config, for training or for evaluation and use.

    A demonstration is the template filled with its sentence, then its word, then
    `demonstration_end`; demonstrations are verbatim, clean-up never touches them.

    Raises:
        ConfigError: The template or a demonstration is malformed.
    """
    literals = parse_template(config.template)
    head = ""
    for number, demonstration in enumerate(config.demonstrations):
        if not demonstration.sentence.strip() or not demonstration.word.strip():
            raise ConfigError(f"prompt.demonstrations[{number}] has an empty sentence or word")
        filled = demonstration.sentence.join(literals)
        head += f"{filled}{demonstration.word}{config.demonstration_end}"
    clean_up, budget = config.clean_up, config.evaluation_max_sentence_tokens
    if training:
        clean_up, budget = config.training_clean_up or clean_up, config.max_sentence_tokens
    return Prompt((head + literals[0], *literals[1:]), clean_up, budget)
