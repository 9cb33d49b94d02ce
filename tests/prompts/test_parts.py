"""A finished prompt, taken apart: the tokens are those of `tokenize`, each with its origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedllm.config import DemonstrationConfig, PromptConfig
from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer
from embedllm.prompts.parts import take_apart
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
TOKENIZER = build_bundled_tokenizer()


@given(sentence=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@pytest.mark.parametrize("template", [TEMPLATE, "{sentence} again: {sentence}", "  {sentence}"])
def test_tokens_are_those_of_tokenize(template: str, sentence: str) -> None:
    prompt = build_prompt(PromptConfig(template=template, evaluation_max_sentence_tokens=12))
    parts = take_apart(sentence, tokenizer=TOKENIZER, prompt=prompt)
    [ids] = tokenize([sentence], tokenizer=TOKENIZER, prompt=prompt)
    assert [token.token_id for token in parts.tokens] == ids
    assert parts.cleaned == prompt.clean(sentence)
    assert parts.cleaned.startswith(parts.kept)
    assert parts.kept + parts.cut == parts.cleaned


def test_every_token_says_where_it_comes_from(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = build_prompt(PromptConfig(template=TEMPLATE))
    parts = take_apart("A man rides.", tokenizer=tokenizer, prompt=prompt)
    assert parts.tokens[0].part == "special"
    texts = {
        part: "".join(token.text for token in parts.tokens if token.part == part)
        for part in ("template", "sentence")
    }
    # The quotes around it may be one token with its first or last letter.
    assert "A man rides" in texts["sentence"]
    assert "man" not in texts["template"]
    assert texts["template"].startswith("This sentence")
    assert texts["template"].endswith('one word:"')


def test_both_copies_are_the_sentence(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = build_prompt(PromptConfig(template="Say: {sentence} Again: {sentence}"))
    parts = take_apart("horses", tokenizer=tokenizer, prompt=prompt)
    sentence = "".join(token.text for token in parts.tokens if token.part == "sentence")
    assert sentence.count("horses") == 2
    assert "Again" not in sentence


def test_a_demonstration_is_of_the_template(tokenizer: PreTrainedTokenizerBase) -> None:
    demonstration = DemonstrationConfig(sentence="A dog barks", word="noise")
    prompt = build_prompt(PromptConfig(template=TEMPLATE, demonstrations=[demonstration]))
    parts = take_apart("A man rides", tokenizer=tokenizer, prompt=prompt)
    template = "".join(token.text for token in parts.tokens if token.part == "template")
    assert "dog barks" in template
    assert "noise" in template


def test_what_is_cut_shows(tokenizer: PreTrainedTokenizerBase) -> None:
    sentence = "one two three four five six seven eight nine ten"
    prompt = build_prompt(PromptConfig(template=TEMPLATE, evaluation_max_sentence_tokens=4))
    parts = take_apart(sentence, tokenizer=tokenizer, prompt=prompt)
    assert parts.kept
    assert parts.cut.endswith("nine ten.")
    room = len(parts.tokens) + 3
    prompt = build_prompt(PromptConfig(template=TEMPLATE))
    parts = take_apart(sentence * 20, tokenizer=tokenizer, prompt=prompt, max_length=room)
    assert parts.cut
    assert len(parts.tokens) <= room


def test_an_empty_sentence_has_no_token(tokenizer: PreTrainedTokenizerBase) -> None:
    parts = take_apart(
        "", tokenizer=tokenizer, prompt=build_prompt(PromptConfig(template=TEMPLATE))
    )
    assert {token.part for token in parts.tokens} == {"special", "template"}
