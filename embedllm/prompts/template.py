"""Prompt templates: literal text, sentence slots, demonstrations."""

from __future__ import annotations

import string
from dataclasses import dataclass, replace

from embedllm.config import PromptConfig
from embedllm.errors import ConfigError
from embedllm.prompts.clean_up import CLEAN_UPS

SLOT = "sentence"
PREPENDED = "prepended"
"""Slot of one placeholder token, see `Prompt.before_prepended`."""


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
        pool_over: `prompt`, or `sentence` when pooling sees its last copy alone.
        before_prepended: Text in front of the placeholder token of Token Prepending, which
            `literals` then goes on behind; None without a placeholder.
    """

    literals: tuple[str, ...]
    clean_up: str = "none"
    max_sentence_tokens: int | None = None
    pool_over: str = "prompt"
    before_prepended: str | None = None

    def clean(self, sentence: str) -> str:
        """Returns the cleaned sentence, still outside the template."""
        return CLEAN_UPS[self.clean_up](sentence)

    def fill(self, cleaned_sentence: str) -> str:
        """Returns the finished prompt, white space stripped from both ends (paper_method 1.1).

        Literal text is never searched for slots again, so braces, quotes or slot names inside
        a sentence stay what they are.
        """
        return cleaned_sentence.join(self.literals).strip()

    def last_copy(self, cleaned_sentence: str) -> tuple[int, int]:
        """Returns where the last copy of the sentence lies in `fill`, as (start, end) characters.

        White space that `fill` strips from the ends belongs to no copy.
        """
        return self.copies(cleaned_sentence)[-1]

    def copies(self, cleaned_sentence: str) -> list[tuple[int, int]]:
        """Returns where every copy of the sentence lies in `fill`, like `last_copy`."""
        whole = cleaned_sentence.join(self.literals)
        stripped = len(whole) - len(whole.lstrip())
        length = len(whole.strip())
        found, start = [], -stripped
        for literal in self.literals[:-1]:
            start += len(literal)
            end = start + len(cleaned_sentence)
            found.append((max(0, start), min(max(0, end), length)))
            start = end
        return found

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
    literals, prepended = _parse(template)
    return literals if prepended is None else (prepended + literals[0], *literals[1:])


def _parse(template: str) -> tuple[tuple[str, ...], str | None]:
    """Returns the literals, and what stands before the placeholder when there is one."""
    key = "prompt.template"
    prepended: str | None = None
    literals: list[str] = [""]
    try:
        for text, name, spec, conversion in string.Formatter().parse(template):
            literals[-1] += text
            if name is None:
                continue
            if name == PREPENDED and not spec and not conversion:
                if prepended is not None or len(literals) > 1:
                    raise ConfigError(
                        f"{key} must have {{{PREPENDED}}} once and before {{{SLOT}}}: {template!r}"
                    )
                prepended, literals = literals[0], [""]
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
    return tuple(literals), prepended


def build_prompt(config: PromptConfig, *, training: bool = False) -> Prompt:
    """Returns the prompt of a config, for training or for evaluation and use.

    A demonstration is the template filled with its sentence, then its word, then
    `demonstration_end`; demonstrations are verbatim, clean-up never touches them.

    Raises:
        ConfigError: The template or a demonstration is malformed.
    """
    literals, prepended = _parse(config.template)
    without_placeholder = parse_template(config.template)
    head = ""
    for number, demonstration in enumerate(config.demonstrations):
        if not demonstration.sentence.strip() or not demonstration.word.strip():
            raise ConfigError(f"prompt.demonstrations[{number}] has an empty sentence or word")
        filled = demonstration.sentence.join(without_placeholder)
        head += f"{filled}{demonstration.word}{config.demonstration_end}"
    clean_up, budget = config.clean_up, config.evaluation_max_sentence_tokens
    if training:
        clean_up, budget = config.training_clean_up or clean_up, config.max_sentence_tokens
    if prepended is not None:
        return Prompt(literals, clean_up, budget, config.pool_over, head + prepended)
    return Prompt((head + literals[0], *literals[1:]), clean_up, budget, config.pool_over)


def build_more_prompts(config: PromptConfig) -> tuple[Prompt, ...]:
    """Returns the prompts of `prompt.more_templates`, alike but for the template.

    Raises:
        ConfigError: A template is malformed.
    """
    return tuple(
        build_prompt(replace(config, template=template, more_templates=[]))
        for template in config.more_templates
    )
