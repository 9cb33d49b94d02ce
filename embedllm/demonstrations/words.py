"""The word of a demonstration: what counts as one, and how an answer becomes one."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# Letters of any script, hyphens only between them.
_WORD: Final = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_QUOTES_AND_STOPS: Final = "\"'`.,;:!?*\u2018\u2019\u201c\u201d\u00ab\u00bb"
# They begin a phrase and say nothing by themselves.
_ARTICLES: Final = frozenset({"a", "an", "the"})


class Answer(NamedTuple):
    """What a model said when it was asked for a word.

    Attributes:
        text: Its words, without the prompt.
        is_cut: Whether it would have gone on, so that the last word may be half of one.
    """

    text: str
    is_cut: bool


def is_single_word(text: str) -> bool:
    """Whether the text is letters alone, or such parts joined by hyphens."""
    return _WORD.fullmatch(text) is not None


def capitalize(word: str) -> str:
    """Returns the word with a capital first letter, as all of the paper's demonstrations have."""
    first = word[:1].upper()
    # A few letters have no capital of their own and become two characters.
    return first + word[1:] if len(first) == 1 else word


def to_word(answer: Answer) -> str | None:
    """Returns the first word of an answer, None when it is not usable.

    Quotes, full stops and the like around the word are taken away. Not usable are an empty
    answer, a first word with anything but letters and inner hyphens in it, an article, a single
    letter, and a word that the answer's end may have cut off.
    """
    pieces = answer.text.split(maxsplit=1)
    if not pieces:
        return None
    word = pieces[0].strip(_QUOTES_AND_STOPS)
    # Whatever follows a word shows that it had ended.
    is_last = len(pieces) == 1 and pieces[0].endswith(word) and not answer.text[-1].isspace()
    if answer.is_cut and is_last:
        return None
    is_usable = len(word) > 1 and is_single_word(word) and word.lower() not in _ARTICLES
    return capitalize(word) if is_usable else None
