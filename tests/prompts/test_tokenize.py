"""Sentences to token ids: special tokens, the cut, the fit, and the real OPT vocabulary."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from embedllm.config import DemonstrationConfig, PromptConfig
from embedllm.errors import ConfigError, DataError
from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer
from embedllm.prompts.template import Prompt, build_prompt
from embedllm.prompts.tokenize import (
    leading_special_tokens,
    template_tail,
    tokenize,
    trailing_special_tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
# The end of a sentence can merge with the template's quote, so ids are compared behind that quote.
SUFFIX = ' means in one word:"'

SENTENCES = [
    "A man is riding a horse.",
    "",
    "Rain!",
    "Two children are playing football on the beach while their parents watch them.",
    'He said "no".',
    "\U0001f600 \u65e5\u672c\u8a9e caf\u00e9",
]

# Characters of one to four bytes, joined and combining ones, contractions, digits, white space.
_ATOMS = st.sampled_from(
    [
        *"'ltesv \n\t\"-12",
        "the",
        " ing",
        "\u00e9",
        "n\u0303",
        "\u65e5\u672c",
        "\u30fc\u30b8\u30e3",
        "\U0001f600",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "\U0001d518",
        "\u0915\u093f",
        "\u00a0",
        "\u3000",
    ]
)
_CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(_ATOMS | _CHARACTERS, max_size=30).map("".join)


def prompt_of(template: str = TEMPLATE, *, budget: int | None = None, **options: object) -> Prompt:
    config = PromptConfig(
        template=template,
        evaluation_max_sentence_tokens=budget,
        **{"clean_up": "none", **options},
    )
    return build_prompt(config)


def tokenizer_with(post_processor: str) -> PreTrainedTokenizerFast:
    """Returns the bundled vocabulary with other special tokens around the text."""
    backend = Tokenizer.from_str(build_bundled_tokenizer().backend_tokenizer.to_str())
    ids = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    backend.post_processor = TemplateProcessing(single=post_processor, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def kept_sentence(token_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the text between the parts of TEMPLATE, which a byte-level decoder gives exactly."""
    before, after = TEMPLATE.split("{sentence}")
    text = tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)
    start = text.index(before) + len(before)
    assert text.endswith(after)
    return text[start : len(text) - len(after)]


# Special tokens


@pytest.mark.parametrize(
    ("post_processor", "leading", "trailing"),
    [
        ("$A", (), ()),
        ("<s> $A", (0,), ()),
        ("$A </s>", (), (2,)),
        ("<s> $A </s>", (0,), (2,)),
        ("<s> <s> $A </s> </s>", (0, 0), (2, 2)),
    ],
)
def test_front_is_kept_and_end_is_dropped(
    post_processor: str, leading: tuple[int, ...], trailing: tuple[int, ...]
) -> None:
    tokenizer = tokenizer_with(post_processor)
    assert leading_special_tokens(tokenizer) == leading
    assert trailing_special_tokens(tokenizer) == trailing
    ids = tokenize(["A man."], tokenizer=tokenizer, prompt=prompt_of())[0]
    assert ids == [*leading, *ids_of(TEMPLATE.format(sentence="A man."), tokenizer)]


def test_tokenizer_that_changes_the_text_is_refused() -> None:
    # Its special tokens come with a lower-cased text: where the text begins cannot be told.
    class Lowering(PreTrainedTokenizerFast):
        def __call__(self, text: str, add_special_tokens: bool = True, **_: object) -> object:
            return {"input_ids": [5, 6] if add_special_tokens else [7]}

    tokenizer = Lowering(tokenizer_object=tokenizer_with("$A").backend_tokenizer)
    with pytest.raises(ConfigError, match=r"model\.tokenizer"):
        tokenize(["A man."], tokenizer=tokenizer, prompt=prompt_of())


def test_chat_template_is_never_applied() -> None:
    tokenizer = tokenizer_with("<s> $A")
    before = tokenize(SENTENCES, tokenizer=tokenizer, prompt=prompt_of())
    tokenizer.chat_template = "{% for m in messages %}user: {{ m.content }}{% endfor %}"
    templated = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert templated == "user: x", "the chat template works, so it could have been applied"
    assert tokenize(SENTENCES, tokenizer=tokenizer, prompt=prompt_of()) == before


# Order, count, the empty cases


def test_order_and_count_are_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    sentences = [*SENTENCES, *reversed(SENTENCES)]
    together = tokenize(sentences, tokenizer=tokenizer, prompt=prompt_of(budget=5), max_length=40)
    one_by_one = [
        tokenize([s], tokenizer=tokenizer, prompt=prompt_of(budget=5), max_length=40)[0]
        for s in sentences
    ]
    assert together == one_by_one
    assert len({tuple(ids) for ids in together}) == len(set(SENTENCES))


def test_no_sentence_no_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenize([], tokenizer=tokenizer, prompt=prompt_of(budget=4), max_length=64) == []


def test_empty_sentence_leaves_the_template(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenize([""], tokenizer=tokenizer, prompt=prompt_of(clean_up="paper"))[0]
    expected = ids_of('This sentence : "" means in one word:"', tokenizer)
    assert ids == [tokenizer.bos_token_id, *expected]


def test_empty_prompt_is_read_at_a_special_token() -> None:
    bare = prompt_of("{sentence}")
    assert tokenize([""], tokenizer=tokenizer_with("<s> $A"), prompt=bare) == [[0]]
    assert tokenize([""], tokenizer=tokenizer_with("$A </s>"), prompt=bare) == [[2]]
    without = tokenizer_with("$A")
    without.eos_token = None
    assert tokenize([" "], tokenizer=without, prompt=bare) == [[0]]


@pytest.mark.parametrize("sentence", ["\ud83d", "fine \udc00 text", "\ude00\ud83d"])
def test_lone_surrogate_is_refused(sentence: str, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="surrogate"):
        tokenize(["fine", sentence], tokenizer=tokenizer, prompt=prompt_of())


# The cut


@settings(deadline=None, max_examples=300)
@given(sentence=TEXT, budget=st.integers(1, 12))
def test_only_the_sentence_is_cut(
    tokenizer: PreTrainedTokenizerBase, sentence: str, budget: int
) -> None:
    ids = tokenize([sentence], tokenizer=tokenizer, prompt=prompt_of(budget=budget))[0]
    suffix = ids_of(SUFFIX, tokenizer)
    assert ids[-len(suffix) :] == suffix
    kept = kept_sentence(ids, tokenizer)
    assert sentence.startswith(kept), "a prefix, so no character is broken"
    # No slack: a cut never undoes a merge that fitted, since BPE merged nothing across it.
    assert len(ids_of(kept, tokenizer)) <= budget
    if len(ids_of(sentence, tokenizer)) <= budget:
        assert kept == sentence


@settings(deadline=None, max_examples=100)
@given(sentence=TEXT, budget=st.integers(1, 12))
def test_the_cleaned_sentence_is_cut(
    tokenizer: PreTrainedTokenizerBase, sentence: str, budget: int
) -> None:
    prompt = prompt_of(budget=budget, clean_up="paper")
    kept = kept_sentence(tokenize([sentence], tokenizer=tokenizer, prompt=prompt)[0], tokenizer)
    assert prompt.clean(sentence).startswith(kept)
    assert len(ids_of(kept, tokenizer)) <= budget


def test_the_cut_uses_the_budget(tokenizer: PreTrainedTokenizerBase) -> None:
    sentence = SENTENCES[3]
    full = ids_of(sentence, tokenizer)
    for budget in range(1, len(full) + 2):
        ids = tokenize([sentence], tokenizer=tokenizer, prompt=prompt_of(budget=budget))[0]
        kept = ids_of(kept_sentence(ids, tokenizer), tokenizer)
        assert kept == full[:budget]


def test_a_character_of_several_tokens_goes_as_a_whole(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert len(ids_of("\U0001f600", tokenizer)) == 4, "the emoji shares no token"
    for budget, kept in [(1, ""), (3, ""), (4, "\U0001f600"), (7, "\U0001f600")]:
        prompt = prompt_of(budget=budget)
        ids = tokenize(["\U0001f600\U0001f600"], tokenizer=tokenizer, prompt=prompt)[0]
        assert kept_sentence(ids, tokenizer) == kept
        assert "\ufffd" not in tokenizer.decode(ids)


def test_demonstrations_are_not_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    config = PromptConfig(
        template=TEMPLATE,
        demonstrations=[DemonstrationConfig(sentence=SENTENCES[3], word="Football")],
        evaluation_max_sentence_tokens=2,
    )
    ids = tokenize([SENTENCES[3]], tokenizer=tokenizer, prompt=build_prompt(config))[0]
    text = tokenizer.decode(ids)
    assert text.count(SENTENCES[3]) == 1
    assert text.endswith('Football".This sentence : "Two" means in one word:"')


def test_tokenizer_without_offsets_cannot_cut(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    short, long = ["abc"], ["one two three four five six"]
    assert tokenize(short, tokenizer=tokenizer, prompt=prompt_of(budget=3))
    with pytest.raises(ConfigError, match=r"prompt\.max_sentence_tokens=null"):
        tokenize(long, tokenizer=tokenizer, prompt=prompt_of(budget=3))


# The fit


@settings(deadline=None, max_examples=200)
@given(sentences=st.lists(TEXT, max_size=3), room=st.integers(3, 12))
def test_prompts_fit_the_model(
    tokenizer: PreTrainedTokenizerBase, sentences: list[str], room: int
) -> None:
    template = len(tokenize([""], tokenizer=tokenizer, prompt=prompt_of())[0])
    unlimited = tokenize(sentences, tokenizer=tokenizer, prompt=prompt_of())
    fitted = tokenize(
        sentences, tokenizer=tokenizer, prompt=prompt_of(), max_length=template + room
    )
    suffix = ids_of(SUFFIX, tokenizer)
    for before, after in zip(unlimited, fitted, strict=True):
        assert len(after) <= template + room
        assert after[-len(suffix) :] == suffix
        if len(before) < template + room:
            assert after == before
        else:
            assert len(after) == template + room
            num_kept = template + room - len(template_tail(prompt_of(), tokenizer))
            assert after[:num_kept] == before[:num_kept]


def test_fit_keeps_most_of_the_sentence(tokenizer: PreTrainedTokenizerBase) -> None:
    sentence = "one two three " * 100
    ids = tokenize([sentence], tokenizer=tokenizer, prompt=prompt_of(), max_length=64)[0]
    assert len(ids) == 64


@pytest.mark.parametrize("clean_up", ["none", "paper"])
def test_what_is_cut_ends_as_all_prompts_do(
    tokenizer: PreTrainedTokenizerBase, clean_up: str
) -> None:
    prompt = prompt_of(clean_up=clean_up)
    tail = template_tail(prompt, tokenizer)
    assert tokenizer.decode(tail).endswith(SUFFIX)
    assert tail == tokenize(["Any other 7"], tokenizer=tokenizer, prompt=prompt)[0][-len(tail) :]
    for num_words in (60, 61, 100):
        text = "a " * num_words
        ids = tokenize([text], tokenizer=tokenizer, prompt=prompt, max_length=48)[0]
        assert ids[-len(tail) :] == tail


def test_template_that_repeats_the_sentence_fits(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = prompt_of('"{sentence}" and again "{sentence}" means:"')
    ids = tokenize(["one two three " * 50], tokenizer=tokenizer, prompt=prompt, max_length=64)[0]
    assert 64 - 6 <= len(ids) <= 64
    assert tokenizer.decode(ids).endswith('" means:"')


def test_fit_goes_on_where_the_sentence_splits_the_template(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Without a sentence the template's halves merge, so its length is underestimated."""
    prompt = prompt_of(" sen{sentence}tence" * 4)
    empty = tokenize([""], tokenizer=tokenizer, prompt=prompt)[0]
    halves = len(ids_of(" sen", tokenizer)) + len(ids_of("tence", tokenizer))
    assert 4 * halves > len(empty) + 2, "more than the two tokens that are held back"
    ids = tokenize(["!?" * 50], tokenizer=tokenizer, prompt=prompt, max_length=40)[0]
    assert len(ids) <= 40
    assert tokenizer.decode(ids).endswith("tence")


@pytest.mark.parametrize("sentence", ["x", "one two three " * 20])
def test_template_alone_too_long(tokenizer: PreTrainedTokenizerBase, sentence: str) -> None:
    with pytest.raises(ConfigError, match=r"prompt\.template") as caught:
        tokenize([sentence], tokenizer=tokenizer, prompt=prompt_of(), max_length=8)
    assert "8 positions" in str(caught.value)


# The real OPT vocabulary


@pytest.fixture
def opt_tokenizer(data_dir: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        data_dir / "tokenizers" / "opt"
    )
    return tokenizer


def test_opt_hello_world(opt_tokenizer: PreTrainedTokenizerBase) -> None:
    bare = prompt_of("{sentence}")
    assert tokenize(["Hello world"], tokenizer=opt_tokenizer, prompt=bare) == [[2, 31414, 232]]


def test_opt_prompt_ends_in_one_token_of_colon_and_quote(
    opt_tokenizer: PreTrainedTokenizerBase,
) -> None:
    for ids in tokenize(SENTENCES, tokenizer=opt_tokenizer, prompt=prompt_of(clean_up="paper")):
        assert opt_tokenizer.convert_ids_to_tokens(ids[-1]) == ':"'
        assert opt_tokenizer.eos_token_id not in ids[1:]
        assert ids[0] == opt_tokenizer.bos_token_id == 2


def read_sentences(path: Path, num_rows: int) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(num_rows), strict=False)]
    assert len(rows) == num_rows
    return [text for row in rows for text in row.values() if text.isascii()]


def test_cut_equals_the_reference(data_dir: Path, opt_tokenizer: PreTrainedTokenizerBase) -> None:
    """The reference cuts the ids and decodes them again (paper_method 3.1)."""
    budget = 32
    sentences = read_sentences(data_dir / "nli" / "nli_triplets.csv", 300)
    ours = tokenize(sentences, tokenizer=opt_tokenizer, prompt=prompt_of(budget=budget))
    num_cut = 0
    for sentence, token_ids in zip(sentences, ours, strict=True):
        ids = ids_of(sentence, opt_tokenizer)
        num_cut += len(ids) > budget
        reference = TEMPLATE.format(sentence=opt_tokenizer.decode(ids[:budget]))
        assert opt_tokenizer.decode(token_ids[1:]) == reference
        assert token_ids[1:] == ids_of(reference, opt_tokenizer)
    assert num_cut > 20, "the cut was at work"


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8])
def test_opt_never_breaks_a_character(opt_tokenizer: PreTrainedTokenizerBase, budget: int) -> None:
    # The reference's way leaves broken characters here (paper_method 9, item 6).
    sentences = [
        "\u30b8\u30e3\u30fc\u30ca\u30ea\u30ba\u30e0",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 family",
        "\u0915\u093f\u0924\u093e\u092c",
        "\U0001d518\U0001d52b\U0001d526",
    ]
    broken = 0
    for sentence in sentences:
        prompt = prompt_of(budget=budget)
        ids = tokenize([sentence], tokenizer=opt_tokenizer, prompt=prompt)[0]
        kept = kept_sentence(ids, opt_tokenizer)
        assert sentence.startswith(kept)
        assert len(ids_of(kept, opt_tokenizer)) <= budget
        broken += "\ufffd" in opt_tokenizer.decode(ids_of(sentence, opt_tokenizer)[:budget])
    assert broken or budget > 3, "the reference's way breaks some"
