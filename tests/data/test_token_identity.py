"""What a table of token ids is found by: all that decides the ids, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from embedllm.config import DemonstrationConfig, PromptConfig
from embedllm.data import token_identity
from embedllm.data.token_identity import fingerprint_token_ids
from embedllm.data.token_table import open_token_table
from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer
from embedllm.prompts.template import Prompt, build_prompt
from embedllm.prompts.tokenize import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
JOCKEY = DemonstrationConfig("A jockey rides.", "Equestrian")
TEXTS = ["A man is riding a horse", 'He said "no" to the government </s>', "", "Water! " * 12]


def _prompt(**options: Any) -> Prompt:
    return build_prompt(PromptConfig(**{"template": TEMPLATE, **options}))


def _fresh_tokenizer(
    change: Callable[[dict[str, Any]], None] = lambda backend: None, **options: Any
) -> PreTrainedTokenizerBase:
    """Returns the bundled tokenizer anew, with its backend changed as JSON."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = json.loads(build_bundled_tokenizer().backend_tokenizer.to_str())
    change(backend)
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **{**special, **options}
    )


def _settings(**changes: Any) -> dict[str, Any]:
    plain = {"tokenizer": _fresh_tokenizer(), "prompt": _prompt(), "max_length": 128}
    return {**plain, **changes}


def _name(texts: list[str] = TEXTS, **changes: Any) -> str:
    name = fingerprint_token_ids(texts, **_settings(**changes))
    assert name is not None
    return name


# --- What decides the ids -----------------------------------------------------------------------


def _lower_case(backend: dict[str, Any]) -> None:
    backend["normalizer"] = {"type": "Lowercase"}


def _lose_a_merge(backend: dict[str, Any]) -> None:
    del backend["model"]["merges"][5]


def _swap_two_ids(backend: dict[str, Any]) -> None:
    vocab = backend["model"]["vocab"]
    vocab["\u0120is"], vocab["\u0120the"] = vocab["\u0120the"], vocab["\u0120is"]


def _lose_bos(backend: dict[str, Any]) -> None:
    backend["post_processor"] = None


def _with_added_token() -> PreTrainedTokenizerBase:
    tokenizer = _fresh_tokenizer()
    tokenizer.add_tokens("government")
    return tokenizer


def _with_split_special_tokens() -> PreTrainedTokenizerBase:
    tokenizer = _fresh_tokenizer()
    tokenizer.split_special_tokens = True
    return tokenizer


CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "template": lambda: {"prompt": _prompt(template='The sentence : "{sentence}" means:"')},
    "demonstrations": lambda: {"prompt": _prompt(demonstrations=[JOCKEY])},
    "demonstration-end": lambda: {
        "prompt": _prompt(demonstrations=[JOCKEY], demonstration_end='" !')
    },
    "clean-up": lambda: {"prompt": replace(_prompt(), clean_up="none")},
    "budget": lambda: {"prompt": replace(_prompt(), max_sentence_tokens=3)},
    "placeholder": lambda: {"prompt": _prompt(template='A{prepended}: "{sentence}" means:"')},
    "max-length": lambda: {"max_length": 40},
    "normalizer": lambda: {"tokenizer": _fresh_tokenizer(_lower_case)},
    "merges": lambda: {"tokenizer": _fresh_tokenizer(_lose_a_merge)},
    "ids": lambda: {"tokenizer": _fresh_tokenizer(_swap_two_ids)},
    "bos": lambda: {"tokenizer": _fresh_tokenizer(_lose_bos)},
    "added-token": lambda: {"tokenizer": _with_added_token()},
    "special-tokens": lambda: {"tokenizer": _with_split_special_tokens()},
    # The placeholder is the end-of-text token.
    "eos": lambda: {
        "prompt": _prompt(template='A{prepended}: "{sentence}" means:"'),
        "tokenizer": _fresh_tokenizer(eos_token="<s>"),
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_table_is_never_read(change: str, tmp_path: Path) -> None:
    changed = _settings(**CHANGES[change]())
    # What differs from the case before it alone.
    others = {"demonstration-end": "demonstrations", "eos": "placeholder"}
    before = _settings(**CHANGES[others[change]]() if change in others else {})
    found = []
    for settings in (before, changed):
        path = tmp_path / f"{fingerprint_token_ids(TEXTS, **settings)}.ids"
        table = open_token_table(TEXTS, partial(tokenize, **settings), path)
        found.append(table.look_up(TEXTS))
        assert found[-1] == tokenize(TEXTS, **settings)
    assert found[0] != found[1], "the change has no effect on these texts"


def test_texts_and_their_order_decide() -> None:
    texts = [[], ["ab"], ["a", "b"], ["b", "a"], ["a"], ["a", ""], ["a", "b", "c"], ["a", "\ud800"]]
    names = {_name(part) for part in texts}
    assert len(names) == len(texts)


@pytest.mark.parametrize("library", ["transformers", "tokenizers"])
def test_versions_decide(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, version = _name(), token_identity.version
    monkeypatch.setattr(
        token_identity, "version", lambda of: "0.0.1" if of == library else version(of)
    )
    assert _name() != name


def test_the_code_that_makes_ids_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("prompts")
    package.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setattr(token_identity, "prompts", package)
    names = [_name()]
    for content in ("a = 1", "a = 2"):
        (tmp_path / "clean_up.py").write_text(content)
        names.append(_name())
    assert len(set(names)) == 3


def test_the_code_of_a_models_own_tokenizer_class_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from transformers import ByT5Tokenizer\nclass Own(ByT5Tokenizer):\n    pass\n"
    names = []
    for folder in ("a", "b"):
        path = tmp_path / folder / f"own_{folder}.py"
        path.parent.mkdir()
        path.write_text(source)
        monkeypatch.syspath_prepend(path.parent)
        module = __import__(path.stem)
        names.append(_name(tokenizer=module.Own()))
        path.write_text(source.replace("pass", "do_lower_case = True"))
        names.append(_name(tokenizer=module.Own()))
    assert len(set(names)) == 4


# --- What does not ------------------------------------------------------------------------------


def test_the_same_again() -> None:
    assert _name() == _name(tokenizer=build_bundled_tokenizer())
    assert len(_name()) == 16


def test_repetitions_change_nothing() -> None:
    assert _name([*TEXTS, *TEXTS]) == _name()


def test_where_a_tokenizer_lies_and_what_it_is_called_change_nothing(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for folder in ("a", "b"):
        _fresh_tokenizer().save_pretrained(tmp_path / folder)
    first, second = (AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("a", "b"))
    assert first.name_or_path != second.name_or_path
    assert _name(tokenizer=first) == _name(tokenizer=second)
    second.name_or_path = "somebody/else"
    assert _name(tokenizer=first) == _name(tokenizer=second)


def test_earlier_calls_change_nothing() -> None:
    tokenizer = _fresh_tokenizer()
    tokenizer(TEXTS, padding=True, truncation=True, max_length=7)
    assert tokenizer.backend_tokenizer.padding is not None
    assert _name(tokenizer=tokenizer) == _name()


# --- Tokenizers without a serialized backend ----------------------------------------------------


def test_slow_tokenizers_are_told_apart(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    name = _name(tokenizer=tokenizer)
    assert name == _name(tokenizer=ByT5Tokenizer())
    changed = ByT5Tokenizer(extra_ids=3)
    assert _name(tokenizer=changed) != name
    changed = ByT5Tokenizer()
    changed.add_tokens("horse")
    assert _name(tokenizer=changed) != name
    settings = _settings(tokenizer=tokenizer)
    for function in (partial(tokenize, **settings), lambda texts: [[0]] * len(texts)):
        table = open_token_table(TEXTS, function, tmp_path / f"{name}.ids")
        assert table.look_up(TEXTS) == tokenize(TEXTS, **settings)


def test_a_tokenizer_that_cannot_be_saved_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import ByT5Tokenizer

    def refuse(*_: Any, **__: Any) -> tuple[str, ...]:
        raise NotImplementedError("no vocabulary to save")

    monkeypatch.setattr(ByT5Tokenizer, "save_vocabulary", refuse)
    assert fingerprint_token_ids(TEXTS, **_settings(tokenizer=ByT5Tokenizer())) is None
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "NotImplementedError: no vocabulary to save" in warning
    assert "stay in memory" in warning
