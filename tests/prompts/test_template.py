"""Prompt strings, from the shipped YAML files where there is one (paper_method 1.1, 1.2, 2)."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import compose_evaluate

from embedllm.config import DemonstrationConfig, PromptConfig
from embedllm.entry import CONF_DIR
from embedllm.errors import ConfigError
from embedllm.prompts.template import Prompt, build_prompt, parse_template

PROMPT_FILES = sorted(path.stem for path in (CONF_DIR / "prompt").glob("*.yaml"))
PROMPTEOL = 'This sentence : "{sentence}" means in one word:"'

# paper_method 2: what the paper chose for each size of OPT.
PAPER_DEMONSTRATIONS = {
    "125m": ("A man is smoking.", "Smoking"),
    "350m": ("A man is playing on a guitar and singing.", "Music"),
    "1.3b": ("relating to switzerland or its people.", "Swiss"),
    "2.7b": ("A jockey riding a horse.", "Equestrian"),
    "6.7b": ("The man is riding a horse.", "Horseback-riding"),
    "13b": ("meat from a deer.", "Venison"),
    "30b": ("The man is riding a motorcycle down the road.", "Motorcycling"),
    "66b": ("of or relating to tutors or tutoring.", "Tutorial"),
}

# Text that a templating engine, a shell or the reference's own slot could take for something else.
AWKWARD = [
    "{sentence}",
    "{{sentence}}",
    "{",
    "}",
    "{0} and {}",
    "*sent_0*",
    "*sent 0*",
    "snake_case_name",
    "%s $HOME `ls` \\n",
    "He said 'this' twice",
    'This sentence : "x" means in one word:"',
]


@lru_cache
def shipped(name: str) -> PromptConfig:
    """Returns `prompt=<name>` as the entry points compose it."""
    prompt = compose_evaluate(f"prompt={name}", "run_name=test").prompt
    assert isinstance(prompt, PromptConfig)
    return prompt


def prompt_of(template: str, **options: object) -> Prompt:
    return build_prompt(PromptConfig(template=template, **{"clean_up": "none", **options}))


@pytest.mark.parametrize(
    ("sentence", "inside"),
    [
        ("A man runs.", "A man runs."),
        ("Does he run?", "Does he run."),
        ("Run!", "Run!."),
        ('He said "run"', "He said 'run'"),
        ("He said 'run'", "He said 'run'"),
        ("A man runs", "A man runs."),
        ("", ""),
    ],
)
def test_prompteol(sentence: str, inside: str) -> None:
    expected = 'This sentence : "' + inside + '" means in one word:"'
    assert build_prompt(shipped("prompteol")).render(sentence) == expected


def test_plain_prompt() -> None:
    rendered = build_prompt(shipped("plain")).render("A man runs")
    assert rendered == 'This sentence : "A man runs." means'


def test_no_prompt_is_the_sentence_itself() -> None:
    prompt = build_prompt(shipped("none"))
    assert prompt.render("Does he run?") == "Does he run?"
    assert prompt.render("  two  spaces \n") == "two  spaces"
    assert prompt.render("") == ""


@pytest.mark.parametrize("size", PAPER_DEMONSTRATIONS)
def test_demonstration_of_the_paper(size: str) -> None:
    sentence, word = PAPER_DEMONSTRATIONS[size]
    rendered = build_prompt(shipped(f"icl-opt-{size}")).render("A cat sleeps")
    assert rendered == (
        f'This sentence : "{sentence}" means in one word:"{word}".'
        'This sentence : "A cat sleeps." means in one word:"'
    )


def test_every_demonstration_file_is_in_the_table() -> None:
    files = {name.removeprefix("icl-opt-") for name in PROMPT_FILES if name.startswith("icl-")}
    assert files == set(PAPER_DEMONSTRATIONS)


def test_demonstration_joint_has_no_space() -> None:
    rendered = build_prompt(shipped("icl-opt-125m")).render("x")
    assert rendered.count('".This') == 1


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_every_shipped_prompt_contains_the_sentence_once(name: str) -> None:
    config = shipped(name)
    for training in (False, True):
        prompt = build_prompt(config, training=training)
        assert prompt.render("quokka.").count("quokka.") == (2 if name == "echo" else 1)
        assert prompt.render("quokka.") == prompt.render("quokka.").strip()


def test_reference_prompt_cleans_up_in_evaluation_only() -> None:
    config = shipped("prompteol-reference")
    sentence = 'Is "x" here?'
    evaluation, training = build_prompt(config), build_prompt(config, training=True)
    assert evaluation.render(sentence) == 'This sentence : "Is \'x\' here." means in one word:"'
    assert training.render(sentence) == 'This sentence : "Is "x" here?" means in one word:"'


def test_training_cleans_up_as_evaluation_does_by_default() -> None:
    config = shipped("prompteol")
    sentence = 'Is "x" here?'
    assert build_prompt(config, training=True).render(sentence) == build_prompt(config).render(
        sentence
    )


def test_budget_is_for_training_and_not_for_evaluation() -> None:
    config = shipped("prompteol")
    assert build_prompt(config, training=True).max_sentence_tokens == 32
    assert build_prompt(config).max_sentence_tokens is None


def test_several_demonstrations_keep_their_order() -> None:
    demonstrations = [
        DemonstrationConfig(sentence="A man runs.", word="Running"),
        DemonstrationConfig(sentence="A cat sleeps.", word="Sleep"),
    ]
    prompt = prompt_of(PROMPTEOL, demonstrations=demonstrations)
    assert prompt.render("Rain.") == (
        'This sentence : "A man runs." means in one word:"Running".'
        'This sentence : "A cat sleeps." means in one word:"Sleep".'
        'This sentence : "Rain." means in one word:"'
    )


def test_demonstrations_are_verbatim() -> None:
    demonstration = DemonstrationConfig(sentence='Why "{sentence}"?', word="{word}")
    prompt = prompt_of(PROMPTEOL, demonstrations=[demonstration], clean_up="paper")
    assert prompt.render("x?").startswith(
        'This sentence : "Why "{sentence}"?" means in one word:"{word}".This sentence : "x." means'
    )


def test_demonstration_end_is_configurable() -> None:
    demonstration = DemonstrationConfig(sentence="A", word="B")
    prompt = prompt_of("{sentence} =", demonstrations=[demonstration], demonstration_end=";\n")
    assert prompt.render("C") == "A =B;\nC ="


@pytest.mark.parametrize(("sentence", "word"), [("", "x"), ("x", ""), (" ", "x"), ("x", "\t")])
def test_empty_demonstration_is_refused(sentence: str, word: str) -> None:
    demonstrations = [
        DemonstrationConfig(sentence="fine", word="fine"),
        DemonstrationConfig(sentence=sentence, word=word),
    ]
    with pytest.raises(ConfigError, match=r"prompt\.demonstrations\[1\]"):
        prompt_of(PROMPTEOL, demonstrations=demonstrations)


def test_white_space_around_the_prompt_is_stripped() -> None:
    assert prompt_of("  {sentence} means \n").render("x") == "x means"
    assert prompt_of("{sentence}").render(" x ") == "x"
    assert prompt_of('"{sentence}"').render(" x ") == '" x "', "inside the template it stays"


@pytest.mark.parametrize("sentence", AWKWARD)
def test_awkward_sentences_stay_text(sentence: str) -> None:
    rendered = prompt_of(PROMPTEOL).render(sentence)
    assert rendered == f'This sentence : "{sentence}" means in one word:"'


@settings(deadline=None)
@given(st.text(), st.sampled_from(["a", "{{x}} "]), st.sampled_from([" b", " {{}}"]))
def test_any_sentence_stays_text(sentence: str, before: str, after: str) -> None:
    rendered = prompt_of(before + "<{sentence}>" + after).render(sentence)
    left, right = before.replace("{{", "{").replace("}}", "}"), after.replace("{{}}", "{}")
    assert rendered == f"{left}<{sentence}>{right}"


def test_new_lines_and_quotes_survive_without_clean_up() -> None:
    sentence = 'one\ntwo "three"'
    assert (
        prompt_of(PROMPTEOL).render(sentence) == f'This sentence : "{sentence}" means in one word:"'
    )


def test_a_template_may_repeat_the_sentence() -> None:
    assert prompt_of("{sentence} | {sentence}!").render("x") == "x | x!"


def test_doubled_braces_are_literal() -> None:
    assert parse_template('{{"text": "{sentence}"}}') == ('{"text": "', '"}')
    assert prompt_of("{{}}{sentence}").render("x") == "{}x"
    assert prompt_of("{{sentence}} {sentence}").render("x") == "{sentence} x"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("This means", "no {sentence} slot"),
        ("", "no {sentence} slot"),
        ("{{sentence}}", "no {sentence} slot"),
        ("*sent_0*", "no {sentence} slot"),
        ("{text}", "{text}"),
        ("{sentence} {word}", "{word}"),
        ("{}", "{}"),
        ("{0}", "{0}"),
        ("{sentence!r}", "only {sentence}"),
        ("{sentence:>10}", "only {sentence}"),
        ("{sentence.upper}", "{sentence.upper}"),
        ("{sentence[0]}", "{sentence[0]}"),
        ("{sentence", "expected '}'"),
        ("sentence}", "Single '}'"),
        ("{sentence} {", "Single '{'"),
    ],
)
def test_template_errors_name_the_key(template: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_prompt(PromptConfig(template=template))
    message = str(caught.value)
    assert "prompt.template" in message
    assert reason in message
    assert repr(template) in message
