"""A prompt written as a file is read as the same prompt, whatever its texts hold."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from embedllm.config import DemonstrationConfig, PromptConfig
from embedllm.config.prompt_file import prompt_to_yaml

# Signs that mean something to YAML or OmegaConf come up often; "???" alone means a missing value.
texts = st.text(
    st.one_of(st.sampled_from("\\${}\"':#\n\t -?!1e.,~&*"), st.characters(codec="utf-8")),
    max_size=30,
).filter(lambda text: text != "???")
demonstrations = st.builds(DemonstrationConfig, texts, texts, st.none() | texts)


def read(text: str) -> object:
    """Returns what composing a file with this text gives."""
    schema = OmegaConf.structured(PromptConfig)
    return OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.load(StringIO(text))))


@settings(max_examples=300, deadline=None)
@given(
    prompt=st.builds(
        PromptConfig,
        template=texts,
        more_templates=st.lists(texts, max_size=2),
        demonstrations=st.lists(demonstrations, max_size=3),
        demonstration_end=texts,
        clean_up=st.sampled_from(["paper", "none"]),
        max_sentence_tokens=st.none() | st.integers(1, 64),
        evaluation_max_sentence_tokens=st.none() | st.integers(1, 64),
    )
)
def test_a_file_is_read_as_the_prompt_that_was_written(prompt: PromptConfig) -> None:
    assert read(prompt_to_yaml(prompt)) == prompt


@pytest.mark.parametrize("text", ["yes", "1e3", "null", "2024-01-01", "[a]", "${x}", "\\${x}", "~"])
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    prompt = PromptConfig(template=text, demonstrations=[DemonstrationConfig(text, text)])
    assert read(prompt_to_yaml(prompt)) == prompt


def test_defaults_are_left_out() -> None:
    prompt = PromptConfig(
        template='"{sentence}" means:"', demonstrations=[DemonstrationConfig("It's so.", "Yes")]
    )
    assert prompt_to_yaml(prompt) == (
        'template: \'"{sentence}" means:"\'\n'
        "demonstrations:\n"
        "- sentence: 'It''s so.'\n"
        "  word: 'Yes'\n"
    )
