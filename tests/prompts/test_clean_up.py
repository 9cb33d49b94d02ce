"""Sentence clean-up against the rules of paper_method 1.2."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedllm.config import CLEAN_UPS as CONFIG_CLEAN_UPS
from embedllm.prompts.clean_up import CLEAN_UPS, clean_up_none, clean_up_paper

ENDINGS = [
    ("A man runs.", "A man runs."),
    ("Does he run?", "Does he run."),
    ("Run!", "Run!."),
    ('He said "run"', "He said 'run'"),
    ("He said 'run'", "He said 'run'"),
    ("A man runs", "A man runs."),
    ("", ""),
    # The question mark inside the quotes is not the last character.
    ('He asked "why?"', "He asked 'why?'"),
    ('"Run" is a word', "'Run' is a word."),
    # Only one question mark is replaced.
    ("Why??", "Why?."),
    ("?", "."),
    ('"', "'"),
    ("A man runs...", "A man runs..."),
    ("A man runs,", "A man runs,."),
]


@pytest.mark.parametrize(("sentence", "cleaned"), ENDINGS)
def test_paper_clean_up(sentence: str, cleaned: str) -> None:
    assert clean_up_paper(sentence) == cleaned


@pytest.mark.parametrize("sentence", ["  A  man\truns.\n", "A\u00a0man runs.", "A man\u2003runs. "])
def test_white_space_is_collapsed(sentence: str) -> None:
    assert clean_up_paper(sentence) == "A man runs."


@pytest.mark.parametrize("sentence", ["", " ", "\t\n"])
def test_blank_sentences_become_empty(sentence: str) -> None:
    assert clean_up_paper(sentence) == ""


def test_case_is_kept() -> None:
    assert clean_up_paper("The UN met in Paris") == "The UN met in Paris."


def reference_clean_up(words: list[str]) -> str:
    """The three steps of paper_method 1.2, one after the other, on white-space tokens."""
    text = " ".join(words)
    if not text:
        return text
    if text[-1] not in ".?\"'":
        text += "."
    text = text.replace('"', "'")
    return text[:-1] + "." if text[-1] == "?" else text


@settings(deadline=None)
@given(st.lists(st.text("ab.?!\"'", min_size=1, max_size=4), max_size=5))
def test_paper_clean_up_equals_the_three_steps(words: list[str]) -> None:
    cleaned = clean_up_paper("  ".join(words))
    assert cleaned == reference_clean_up(words)
    assert '"' not in cleaned
    assert clean_up_paper(cleaned) == cleaned, "cleaning twice changes nothing"


@settings(deadline=None)
@given(st.text())
def test_none_changes_nothing(sentence: str) -> None:
    assert clean_up_none(sentence) == sentence


def test_config_and_table_know_the_same_names() -> None:
    assert set(CONFIG_CLEAN_UPS) == set(CLEAN_UPS)
