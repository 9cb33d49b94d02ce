"""The one way from sentences to token ids, for training, evaluation, encoding and export."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from embedllm.errors import ConfigError, DataError
from embedllm.log import get_logger
from embedllm.prompts.template import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = get_logger(__name__)


class Row(NamedTuple):
    """The token ids of a finished prompt, and which of them pooling sees: [start, stop)."""

    ids: list[int]
    start: int
    stop: int


def tokenize(
    sentences: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    max_length: int | None = None,
) -> list[list[int]]:
    """Returns the token ids of each sentence's finished prompt, without padding.

    The tokens that the tokenizer itself puts in front (BOS) are kept and those that it appends
    (EOS) are not: the embedding is read where the model would write its word (paper_method 1).
    A chat template is never applied. Only the sentence is ever cut: to the prompt's budget,
    and further where the whole prompt would not fit the model.

    Args:
        sentences: Raw sentences; clean-up happens here.
        tokenizer: The backbone's tokenizer.
        prompt: Template, clean-up and budget.
        max_length: Positions that the model has; None for no limit.

    Raises:
        ConfigError: The template alone does not fit into `max_length`.
    """
    rows = tokenize_rows(sentences, tokenizer=tokenizer, prompt=prompt, max_length=max_length)
    return [row.ids for row in rows]


def tokenize_rows(
    sentences: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    max_length: int | None = None,
) -> list[Row]:
    """Returns what `tokenize` does, with the tokens that `prompt.pool_over` means.

    A token that a sentence shares with the template (a merged quote, say) counts as the
    sentence's. An empty sentence has no token, so the last one of the prompt stands for it.

    Raises:
        ConfigError: As `tokenize`, and when the tokenizer cannot tell where its tokens lie.
    """
    return cut_and_tokenize(
        sentences, tokenizer=tokenizer, prompt=prompt, max_length=max_length
    ).rows


class Finished(NamedTuple):
    """What is left of each sentence after clean-up and cutting, and the tokens of its prompt."""

    sentences: list[str]
    rows: list[Row]


def cut_and_tokenize(
    sentences: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    max_length: int | None = None,
) -> Finished:
    """Returns what `tokenize_rows` does, with the sentences that the prompts were filled with.

    Raises:
        ConfigError: As `tokenize_rows`.
    """
    cleaned = [prompt.clean(sentence) for sentence in sentences]
    check_unicode(cleaned)
    if prompt.max_sentence_tokens is not None:
        cleaned = _cut(cleaned, tokenizer, [prompt.max_sentence_tokens] * len(cleaned))
    head = leading_special_tokens(tokenizer)
    rows = _encode(prompt, cleaned, tokenizer, head)
    if max_length is not None:
        _fit(rows, cleaned, tokenizer, prompt, max_length)
    return Finished(cleaned, rows)


def prepended_position(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Returns where the placeholder token stands in every row, None without one."""
    if prompt.before_prepended is None:
        return None
    return len(_head_of(prompt, tokenizer, leading_special_tokens(tokenizer))) - 1


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Returns the ids that the tokenizer puts in front of a text: its BOS, or nothing."""
    return _special_affixes(tokenizer)[0]


def trailing_special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Returns the ids that the tokenizer would append and that `tokenize` leaves out."""
    return _special_affixes(tokenizer)[1]


@lru_cache(maxsize=16)
def _special_affixes(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start]), tuple(full[start + len(plain) :])
    raise ConfigError(
        f"the tokenizer of {tokenizer.name_or_path!r} changes the text itself when it adds "
        f"special tokens ({plain} became {full}); set model.tokenizer to another one"
    )


def check_unicode(texts: Sequence[str]) -> None:
    """Raises DataError for text that no tokenizer can read."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        bad = error.object[error.start : error.end]
        raise DataError(
            f"a sentence holds {bad!r}, half of a character (a lone surrogate), which no "
            "tokenizer can read; the text was decoded wrongly before"
        ) from error


def _encode(
    prompt: Prompt,
    cleaned: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    head: tuple[int, ...],
) -> list[Row]:
    if not cleaned:
        return []
    head = _head_of(prompt, tokenizer, head)
    needs_offsets = prompt.pool_over == "sentence"
    if needs_offsets and not tokenizer.is_fast:
        raise ConfigError(
            f"prompt.pool_over=sentence: the tokenizer of {tokenizer.name_or_path!r} cannot tell "
            "where its tokens lie; set model.tokenizer to one with a tokenizer.json"
        )
    encoded = tokenizer(
        [prompt.fill(sentence) for sentence in cleaned],
        add_special_tokens=False,
        verbose=False,
        return_offsets_mapping=needs_offsets,
    )
    # A model needs at least one position; an empty prompt is read at an end-of-text token.
    rows = [[*head, *ids] or [_filler(tokenizer)] for ids in encoded["input_ids"]]
    if not needs_offsets:
        return [Row(ids, 0, len(ids)) for ids in rows]
    return [
        Row(ids, *_span(prompt.last_copy(sentence), offsets, len(head), len(ids)))
        for ids, sentence, offsets in zip(rows, cleaned, encoded["offset_mapping"], strict=True)
    ]


def _span(
    copy: tuple[int, int], offsets: Sequence[tuple[int, int]], num_head: int, num_tokens: int
) -> tuple[int, int]:
    """Returns the tokens that overlap the characters of a copy."""
    start, end = copy
    inside = [i for i, (first, last) in enumerate(offsets) if last > start and first < end]
    if not inside:
        return num_tokens - 1, num_tokens
    return num_head + inside[0], num_head + inside[-1] + 1


def _head_of(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase, head: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the ids in front of the text that is tokenized with the sentence."""
    if prompt.before_prepended is None:
        return head
    before = tokenizer(prompt.before_prepended.lstrip(), add_special_tokens=False)["input_ids"]
    return (*head, *before, _filler(tokenizer))


def _filler(tokenizer: PreTrainedTokenizerBase) -> int:
    return 0 if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


def _cut(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, budgets: Sequence[int]
) -> list[str]:
    """Returns each text cut to its budget of tokens, at the border of a whole character."""
    # A token covers at least one byte, so most texts need no look at their tokens.
    long = [i for i, text in enumerate(texts) if len(text.encode()) > budgets[i]]
    if not long:
        return list(texts)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of {tokenizer.name_or_path!r} cannot tell where its tokens lie in "
            "the text, so a sentence cannot be cut to a budget; set "
            "prompt.max_sentence_tokens=null or model.tokenizer to one with a tokenizer.json"
        )
    encoded = tokenizer(
        [texts[i] for i in long],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    result = list(texts)
    for i, offsets in zip(long, encoded["offset_mapping"], strict=True):
        budget = budgets[i]
        if len(offsets) > budget:
            # Byte-level tokens can share one character; such a character goes as a whole.
            end = min(offsets[budget - 1][1], offsets[budget][0]) if budget > 0 else 0
            result[i] = texts[i][:end].rstrip()
    return result


def _fit(
    rows: list[Row],
    cleaned: list[str],
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    max_length: int,
) -> None:
    """Cuts, in place, sentences whose prompts exceed the model's positions, and their rows."""
    is_plain = len(prompt.literals) == 2 and prompt.pool_over == "prompt"
    # The template's end is there already in a plain prompt that just fits, or nearly: its last
    # token may be merged with the sentence's. Other libraries cannot tell such a prompt from one
    # that they cut, so both end alike.
    limit = max_length if is_plain else max_length + 1
    too_long = [i for i, row in enumerate(rows) if len(row.ids) >= limit]
    if not too_long:
        return
    head = leading_special_tokens(tokenizer)
    num_template = len(_encode(prompt, [""], tokenizer, head)[0].ids)
    # Two tokens of slack: merges at the border of sentence and template can differ.
    num_slots = len(prompt.literals) - 1
    budget = (max_length - num_template - 2) // num_slots
    if budget < 1:
        raise ConfigError(
            f"the prompt without a sentence takes {num_template} tokens, but the model has only "
            f"{max_length} positions; shorten prompt.template or prompt.demonstrations"
        )
    num_cut = sum(len(rows[i].ids) > max_length for i in too_long)
    if num_cut:
        _log.warning(
            "%d sentences exceed the %d positions of the model and are cut to about %d tokens",
            num_cut,
            max_length,
            budget,
        )
    if is_plain:
        tail = template_tail(prompt, tokenizer)
        for i in too_long:
            ids = [*rows[i].ids[: max_length - len(tail)], *tail]
            rows[i] = Row(ids, 0, len(ids))
        return
    while too_long:
        shorter = _cut([cleaned[i] for i in too_long], tokenizer, [budget] * len(too_long))
        shorter_rows = _encode(prompt, shorter, tokenizer, head)
        for i, text, row in zip(too_long, shorter, shorter_rows, strict=True):
            cleaned[i], rows[i] = text, row
        too_long = [i for i in too_long if len(rows[i].ids) > max_length]
        budget -= 1


def template_tail(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the tokens in which the finished prompts of any two sentences end.

    With clean-up they begin with the sentence's full stop. Found as sentence-transformers finds
    the end of a chat template, so that an exported model cuts where this one does.
    """
    head = leading_special_tokens(tokenizer)
    cleaned = [prompt.clean(sentence) for sentence in ("0", "1 2 3 4")]
    first, second = (row.ids for row in _encode(prompt, cleaned, tokenizer, head))
    pairs = zip(reversed(first), reversed(second), strict=False)
    num_alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return first[len(first) - num_alike :] if num_alike else []
