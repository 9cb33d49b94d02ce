"""What a finished prompt is made of, token by token, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embedllm.errors import ConfigError
from embedllm.prompts.template import Prompt
from embedllm.prompts.tokenize import (
    Row,
    cut_and_tokenize,
    leading_special_tokens,
    template_tail,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = Literal["special", "template", "sentence"]


@dataclass(frozen=True)
class PromptToken:
    """One token of a finished prompt.

    Attributes:
        token_id: Its id.
        text: Its text, with the white space that belongs to it.
        part: `sentence` when it covers a character of a sentence, `template` when it is of the
            text around, `special` when the tokenizer put it in front (or Token Prepending).
    """

    token_id: int
    text: str
    part: Part


@dataclass(frozen=True)
class PromptParts:
    """A finished prompt, taken apart.

    Attributes:
        tokens: What the model reads, in its order.
        cleaned: The sentence after clean-up.
        kept: What of it is in the prompt.
    """

    tokens: tuple[PromptToken, ...]
    cleaned: str
    kept: str

    @property
    def cut(self) -> str:
        """What was cut off the end of the cleaned sentence."""
        return self.cleaned.removeprefix(self.kept)


def take_apart(
    sentence: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    max_length: int | None = None,
) -> PromptParts:
    """Returns the tokens that `tokenize` gives for a sentence, and where each comes from.

    Args:
        sentence: A raw sentence.
        tokenizer: The backbone's tokenizer.
        prompt: Template, clean-up and budget.
        max_length: Positions that the model has; None for no limit.

    Raises:
        ConfigError: As `tokenize`; or the tokenizer cannot tell where its tokens lie.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of {tokenizer.name_or_path!r} cannot tell where its tokens lie; set "
            "model.tokenizer to one with a tokenizer.json"
        )
    finished = cut_and_tokenize(
        [sentence], tokenizer=tokenizer, prompt=prompt, max_length=max_length
    )
    row = finished.rows[0]
    parts, kept = _parts_of(row, finished.sentences[0], tokenizer=tokenizer, prompt=prompt)
    tokens = tuple(
        PromptToken(token_id, token_text(tokenizer, token_id), part)
        for token_id, part in zip(row.ids, parts, strict=True)
    )
    return PromptParts(tokens, prompt.clean(sentence), kept)


def _parts_of(
    row: Row, kept: str, *, tokenizer: PreTrainedTokenizerBase, prompt: Prompt
) -> tuple[list[Part], str]:
    """Returns where each token comes from, and what of the sentence is left."""
    whole = tokenizer(prompt.fill(kept), add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = whole["input_ids"], whole["offset_mapping"]
    copies = prompt.copies(kept)
    inside = [any(last > start and first < end for start, end in copies) for first, last in offsets]
    parts: list[Part] = ["sentence" if is_inside else "template" for is_inside in inside]
    special: list[Part] = ["special"] * (len(row.ids) - len(ids))
    # An empty prompt is read at a token that no text stands for.
    if not ids or (len(row.ids) >= len(ids) and row.ids[-len(ids) :] == ids):
        return special + parts, kept
    # Cut at a token, to the model's positions: the template's end stands behind it.
    num_tail = len(template_tail(prompt, tokenizer))
    num_head = len(leading_special_tokens(tokenizer))
    num_left = len(row.ids) - num_tail - num_head
    (start, _), (_, last) = copies[0], offsets[num_left - 1]
    head: list[Part] = ["special"] * num_head
    tail: list[Part] = ["template"] * num_tail
    return head + parts[:num_left] + tail, kept[: max(last - start, 0)]


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Returns the text of one token, with the space in front that its word begins with.

    A part of a character has no text and gives the replacement character.
    """
    name = str(tokenizer.convert_ids_to_tokens(token_id))
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    # SentencePiece takes a single token for the beginning of a text, which has no space.
    has_space = name.startswith("\N{LOWER ONE EIGHTH BLOCK}") and not text.startswith(" ")
    return f" {text}" if has_space else text
