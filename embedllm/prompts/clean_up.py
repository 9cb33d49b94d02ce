"""Sentence clean-up before templating (paper_method 1.2)."""

from __future__ import annotations

from collections.abc import Callable


def clean_up_paper(sentence: str) -> str:
    """Returns the sentence as the paper's evaluation passes it to the template.

    White space is collapsed; a sentence that ends in none of `. ? " '` gets a full stop (so
    `!` becomes `!.`); double quotes become single ones, since the template itself uses double
    quotes; a final question mark becomes a full stop. An empty sentence stays empty.
    """
    sentence = " ".join(sentence.split())
    if not sentence:
        return sentence
    if sentence[-1] not in ".?\"'":
        sentence += "."
    sentence = sentence.replace('"', "'")
    if sentence[-1] == "?":
        sentence = sentence[:-1] + "."
    return sentence


def clean_up_none(sentence: str) -> str:
    """Returns the sentence unchanged, as the paper's training does (paper_method 9, item 4)."""
    return sentence


CLEAN_UPS: dict[str, Callable[[str], str]] = {"paper": clean_up_paper, "none": clean_up_none}
