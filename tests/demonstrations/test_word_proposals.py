"""Words proposed by a language model: cleaning, the local model, going on after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TINY_ARCHITECTURES, ModelFactory, build_tiny_config

from embedllm.config import ModelConfig, PromptConfig
from embedllm.demonstrations.local_model import LocalProposer
from embedllm.demonstrations.proposal_store import FILE_NAME, ProposalStore, open_store
from embedllm.demonstrations.word_proposals import propose_words
from embedllm.demonstrations.words import Answer, is_single_word, to_word
from embedllm.errors import CheckpointError, ModelError
from embedllm.models.backbone import load_language_model, load_tokenizer
from embedllm.prompts.template import Prompt, build_prompt
from embedllm.prompts.tokenize import tokenize

TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
SENTENCES = [f"Sentence number {i} of many." for i in range(8)]


@pytest.fixture
def prompt() -> Prompt:
    return build_prompt(PromptConfig(template=TEMPLATE))


# --- Words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Running", "Running"),
        ("running", "Running"),
        ('"Running".', "Running"),
        ("\u201cRunning\u201d!", "Running"),
        (" **Running**\n", "Running"),
        ("horseback-riding", "Horseback-riding"),
        ("Running, jumping", "Running"),
        ("\u00e9toile", "\u00c9toile"),
        ("\u00dfa", "\u00dfa"),
        ("iPhone", "IPhone"),
        ("", None),
        ("  \n", None),
        ("...", None),
        ("42", None),
        ("COVID19", None),
        ("-ing", None),
        ("pre-", None),
        ("don't", None),
        ("<think>", None),
        ("a running man", None),
        ("The", None),
        ("I am sorry", None),
    ],
)
def test_the_first_word_of_an_answer(text: str, word: str | None) -> None:
    assert to_word(Answer(text, is_cut=False)) == word


@pytest.mark.parametrize(
    ("text", "word"),
    [("Transporta", None), ("Transport ", "Transport"), ("Transport.", "Transport"), ("a", None)],
)
def test_half_a_word_is_not_used(text: str, word: str | None) -> None:
    assert to_word(Answer(text, is_cut=True)) == word


@given(text=st.text(), is_cut=st.booleans())
def test_whatever_comes_out_is_a_word(text: str, is_cut: bool) -> None:
    word = to_word(Answer(text, is_cut))
    if word is not None:
        assert is_single_word(word)
        assert word[1:] in text
        # Once more changes nothing.
        assert to_word(Answer(word, is_cut=False)) == word


# --- The local model ----------------------------------------------------------------------------


def _local(model: ModelConfig, prompt: Prompt, cache_dir: Path, **options: int) -> LocalProposer:
    return LocalProposer(
        model,
        prompt,
        cache_dir=cache_dir,
        device=torch.device("cpu"),
        **{"batch_size": 4, "max_new_tokens": 12, **options},
    )


@torch.inference_mode()
def _go_on_plainly(
    model: ModelConfig, prompt: Prompt, cache_dir: Path, sentence: str, num_tokens: int
) -> str:
    """Returns the greedy continuation, by one full pass over one unpadded row for each token."""
    tokenizer = load_tokenizer(model, cache_dir)
    language_model: Any = load_language_model(model, cache_dir, device=torch.device("cpu"))
    [ids] = tokenize([sentence], tokenizer=tokenizer, prompt=prompt)
    start = len(ids)
    for _ in range(num_tokens):
        logits = language_model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == language_model.generation_config.eos_token_id:
            ids.pop()
            break
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


@pytest.mark.parametrize("family", TINY_ARCHITECTURES)
def test_a_local_model_goes_on_greedily(family: str, prompt: Prompt, tmp_path: Path) -> None:
    model = build_tiny_config(family)
    sentences = ["A man is riding a horse.", "A dog.", "What is the best way to learn how to swim?"]
    proposer = _local(model, prompt, tmp_path)
    answers = proposer.ask(sentences)
    expected = [_go_on_plainly(model, prompt, tmp_path, s, 12) for s in sentences]
    assert [a.text for a in answers] == [text.partition('"')[0] for text in expected]
    # Neither the others in the batch nor the padding play a part.
    assert [proposer.ask([s])[0] for s in sentences] == answers
    assert len({a.text for a in answers}) > 1


class _Scripted:
    """A model that says what it is told, for how an answer ends."""

    def __init__(self, new_ids: Sequence[Sequence[int]], eos: int) -> None:
        self._new_ids = torch.tensor(new_ids)
        self.generation_config = type("Config", (), {"eos_token_id": eos})()

    def generate(self, input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        return torch.cat([input_ids, self._new_ids], dim=1)


def test_an_answer_ends_at_the_quote_the_end_of_text_or_the_limit(
    tiny_opt: ModelFactory, prompt: Prompt, tmp_path: Path
) -> None:
    proposer = _local(tiny_opt(), prompt, tmp_path, max_new_tokens=6)
    tokenizer = load_tokenizer(tiny_opt(), tmp_path)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    eos = tokenizer.eos_token_id
    rows = [[*ids("ox")[:2], *ids('".')], [*ids("ox"), eos], ids("horse horse horse")]
    rows = [(row + [1] * 6)[:6] for row in rows]
    proposer.__dict__["_model"] = _Scripted(rows, eos)
    answers = proposer.ask(["a", "b", "c"])
    assert answers[:2] == [Answer("ox", is_cut=False), Answer("ox", is_cut=False)]
    assert answers[2].is_cut


def test_a_local_model_is_loaded_only_when_it_is_asked(
    tiny_opt: ModelFactory, prompt: Prompt, tmp_path: Path
) -> None:
    proposer = _local(ModelConfig(name=str(tmp_path / "nothing")), prompt, tmp_path)
    assert proposer.identity
    with pytest.raises(ModelError, match=r"model\.name: there is no folder"):
        proposer.ask(["A dog."])


def test_a_sentence_longer_than_the_model_is_cut(
    tiny_opt: ModelFactory, prompt: Prompt, tmp_path: Path
) -> None:
    proposer = _local(tiny_opt(), prompt, tmp_path)
    long, short = proposer.ask(["a man is riding a horse " * 40, "A dog."])
    assert proposer.ask(["A dog."]) == [short]
    assert isinstance(long.text, str)


# --- Going on -----------------------------------------------------------------------------------


class _Fake:
    """Answers from a table and remembers what it was asked."""

    def __init__(self, answers: dict[str, str] | None = None, batch_size: int = 1) -> None:
        self.name = "fake"
        self.batch_size = batch_size
        self.identity: dict[str, Any] = {"model": "fake"}
        self.asked: list[list[str]] = []
        self._answers = answers or {}

    def ask(self, sentences: Sequence[str]) -> list[Answer]:
        self.asked.append(list(sentences))
        return [Answer(self._answers.get(s, f"Word{'x' * len(s)}"), False) for s in sentences]


def test_words_are_asked_for_until_there_are_enough(tmp_path: Path) -> None:
    fake = _Fake({SENTENCES[1]: "42", SENTENCES[2]: ""}, batch_size=3)
    sentences = iter(SENTENCES)
    proposals = propose_words(sentences, fake, tmp_path, number=3, source="Here")
    assert [d.sentence for d in proposals.demonstrations] == [SENTENCES[i] for i in (0, 3, 4)]
    assert {d.source for d in proposals.demonstrations} == {"Here; word: fake"}
    assert (proposals.num_unusable, proposals.unusable_examples) == (2, ["42", ""])
    # Three, three, and no more than were missing then.
    assert fake.asked == [SENTENCES[:3], SENTENCES[3:5]]
    assert next(sentences) == SENTENCES[5]


def test_fewer_come_back_when_the_sentences_run_out(tmp_path: Path) -> None:
    proposals = propose_words(iter(SENTENCES[:2]), _Fake(), tmp_path, number=9, source="Here")
    assert len(proposals.demonstrations) == 2


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    first = propose_words(iter(SENTENCES[:3]), _Fake(), tmp_path, number=9, source="Here")
    fake = _Fake(batch_size=4)
    second = propose_words(iter(SENTENCES), fake, tmp_path, number=9, source="Here")
    assert second.demonstrations[:3] == first.demonstrations
    assert fake.asked == [SENTENCES[3:4], SENTENCES[4:]]
    # Unusable answers are answers too.
    fake = _Fake({SENTENCES[0]: "never read"})
    assert propose_words(iter(SENTENCES), fake, tmp_path, number=9, source="Here") == second
    assert fake.asked == []


def test_answers_of_another_model_are_not_used(tmp_path: Path) -> None:
    propose_words(iter(SENTENCES[:2]), _Fake(), tmp_path, number=2, source="Here")
    other = _Fake()
    other.identity = {"model": "other"}
    propose_words(iter(SENTENCES[:2]), other, tmp_path, number=2, source="Here")
    assert len(other.asked) == 2
    again = _Fake()
    propose_words(iter(SENTENCES[:2]), again, tmp_path, number=2, source="Here")
    assert again.asked == []


def test_an_answer_is_on_disk_before_the_next_is_asked(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watching(_Fake):
        def ask(self, sentences: Sequence[str]) -> list[Answer]:
            path = tmp_path / FILE_NAME
            seen.append(len(path.read_text().splitlines()) if path.exists() else 0)
            return super().ask(sentences)

    propose_words(iter(SENTENCES), Watching(), tmp_path, number=4, source="Here")
    assert seen == [0, 1, 2, 3]


def test_a_model_that_never_gives_a_word_is_given_up(tmp_path: Path) -> None:
    sentences = [f"Sentence {i}." for i in range(200)]
    fake = _Fake(dict.fromkeys(sentences, "<think>"))
    with pytest.raises(ModelError, match=r"none of the first 50 answers of fake was a word.*think"):
        propose_words(iter(sentences), fake, tmp_path, number=9, source="Here")
    assert len(fake.asked) == 50
    # One word among many other answers is enough to go on.
    fake = _Fake(dict.fromkeys(sentences[1:], "<think>"))
    fake.identity = {"model": "better"}
    proposals = propose_words(iter(sentences), fake, tmp_path, number=9, source="Here")
    assert (len(proposals.demonstrations), proposals.num_unusable) == (1, 199)


def test_a_torn_last_line_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    store = ProposalStore(path, {"a": 1})
    store.add(SENTENCES[:2], [Answer("One\u2028", False), Answer("Two", True)])
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        torn = ProposalStore(path, {"a": 1})
        assert len(torn) == whole[:length].count(b"\n")
        torn.add(SENTENCES[2:3], [Answer("Three", False)])
        assert ProposalStore(path, {"a": 1}).get(SENTENCES[2]) == Answer("Three", False)
    path.write_bytes(whole)
    read = ProposalStore(path, {"a": 1})
    assert read.get(SENTENCES[0]) == Answer("One\u2028", False)
    assert read.get(SENTENCES[1]) == Answer("Two", True)
    assert read.get(SENTENCES[2]) is None


@pytest.mark.parametrize("line", ["{", "[]", json.dumps({"asked": "x", "sentence": "y"})])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    ProposalStore(path, {}).add(["a"], [Answer("b", False)])
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(CheckpointError, match=r"proposals\.jsonl is damaged in line 2; delete"):
        ProposalStore(path, {})


def test_a_run_folder_has_one_user(tmp_path: Path) -> None:
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(CheckpointError, match="is in use by another run"),
        open_store(tmp_path, {}),
    ):
        pass
    with open_store(tmp_path, {}) as store:
        store.add(["a"], [Answer("b", False)])
    with open_store(tmp_path, {}) as store:
        assert len(store) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs /dev/full")
def test_a_full_disk_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    store = ProposalStore(path, {})
    path.symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot be written.*paths\.output_dir"):
        store.add(["a"], [Answer("b", False)])
