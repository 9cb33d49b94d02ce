"""Generates the triplets and the graded pairs from the frames of a split.

A sentence starts as a random draft: a frame and a concept for each of its slots. A draft can be
edited (another concept, a dropped detail, a hypernym, exchanged roles, a contradicting template)
and reworded (another template, other synonyms). The edits alone decide the score of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from embedllm.data.sample import captions_train, held_out_dev, held_out_test, news_train
from embedllm.data.sample.grammar import Draft, Vocabulary
from embedllm.data.sample.writer import Writer
from embedllm.errors import DataError

# Far below the number of distinct sentences, so that the search for unused ones stays short.
MAX_TRIPLETS = 10_000
MAX_PAIRS = 1_000
WORDS_PER_SENTENCE = range(5, 21)

VOCABULARIES: Mapping[str, Vocabulary] = {
    "train": Vocabulary(
        {**captions_train.SLOTS, **news_train.SLOTS}, captions_train.FRAMES + news_train.FRAMES
    ),
    "dev": Vocabulary(held_out_dev.SLOTS, held_out_dev.FRAMES),
    "test": Vocabulary(held_out_test.SLOTS, held_out_test.FRAMES),
}


class Triplet(NamedTuple):
    """An anchor, a sentence it entails and a sentence that contradicts it."""

    anchor: str
    positive: str
    negative: str


class ScoredPair(NamedTuple):
    """Two sentences and their similarity, 0 (unrelated) to 5 (same meaning)."""

    sentence1: str
    sentence2: str
    score: float


def generate_triplets(num: int, *, seed: int) -> list[Triplet]:
    """Returns ``num`` distinct training triplets, no two with the same anchor.

    Args:
        num: How many triplets, at most ``MAX_TRIPLETS``.
        seed: Any integer; the same seed gives the same list on every Python version. A longer
            list starts with the shorter one.

    Raises:
        DataError: ``num`` is negative or above ``MAX_TRIPLETS`` (a ``ValueError``).
    """
    _check_num(num, MAX_TRIPLETS, "triplets")
    writer = Writer(VOCABULARIES["train"], f"train-{seed}")
    anchors: set[str] = set()
    triplets: list[Triplet] = []
    while len(triplets) < num:
        triplet = _draw_triplet(writer)
        if triplet.anchor not in anchors and _is_usable(triplet):
            anchors.add(triplet.anchor)
            triplets.append(triplet)
    return triplets


def generate_pairs(num: int, *, split: Literal["dev", "test"], seed: int) -> list[ScoredPair]:
    """Returns ``num`` distinct scored pairs, spread evenly over the whole points 0 to 5.

    A half step counts to the point below it. Words and frames are those of ``split`` alone.

    Args:
        num: How many pairs, at most ``MAX_PAIRS``.
        split: Which held-out words and frames to use.
        seed: Any integer; the same seed gives the same list on every Python version. A longer
            list starts with the shorter one.

    Raises:
        DataError: ``num`` is negative or above ``MAX_PAIRS``, or ``split`` is not an evaluation
            split (a ``ValueError``).
    """
    if split not in ("dev", "test"):
        raise DataError(f"split is {split!r}; sample pairs exist for 'dev' and 'test'")
    _check_num(num, MAX_PAIRS, "pairs per split")
    writer = Writer(VOCABULARIES[split], f"{split}-{seed}")
    seen: set[frozenset[str]] = set()
    pairs: list[ScoredPair] = []
    while len(pairs) < num:
        first, second, score = _PAIR_RULES[len(pairs) % len(_PAIR_RULES)](writer)
        if writer.chance(0.5):
            first, second = second, first
        texts = (first.text(), second.text())
        if frozenset(texts) not in seen and _is_usable(texts):
            seen.add(frozenset(texts))
            pairs.append(ScoredPair(*texts, score))
    return pairs


def _check_num(num: int, limit: int, what: str) -> None:
    if not 0 <= num <= limit:
        raise DataError(f"num is {num}; the sample generator makes 0 to {limit} {what}")


def _is_usable(texts: Sequence[str]) -> bool:
    """Returns whether all sentences differ and none is too short or too long."""
    is_distinct = len(set(texts)) == len(texts)
    return is_distinct and all(len(text.split()) in WORDS_PER_SENTENCE for text in texts)


def _draw_triplet(writer: Writer) -> Triplet:
    anchor = writer.draw()
    positive = anchor
    if writer.chance(0.35):
        positive = writer.drop_detail(positive)
    if writer.has_broader(anchor) and writer.chance(0.3):
        positive = writer.broaden(positive)
    positive = writer.reword(positive, anchor)
    if writer.chance(0.6):
        negative = writer.contradict(anchor)
    else:
        negative = writer.change_some(anchor, details=False)
    return Triplet(anchor.text(), positive.text(), negative.text())


# Each rule makes the pairs of one whole point. Close meanings are mostly reworded and distant ones
# mostly keep the words, so that counting shared words does not solve the task.
_Scored = tuple[Draft, Draft, float]


def _same_meaning(writer: Writer) -> _Scored:
    first = writer.draw()
    return first, writer.reword(first, first), 5.0


def _detail_differs(writer: Writer) -> _Scored:
    first = writer.draw()
    score = 4.5 if writer.chance(0.4) else 4.0
    if score == 4.5:
        second = writer.drop_detail(first)
    elif writer.has_broader(first) and writer.chance(0.4):
        second = writer.broaden(first)
    else:
        second = writer.change_some(first, details=True)
    return first, _reword_some(writer, second, first, 0.7), score


def _important_part_differs(writer: Writer) -> _Scored:
    first = writer.draw()
    if writer.has_broader(first) and writer.chance(0.4):
        second = writer.broaden(writer.change_some(first, details=True))
        return first, _reword_some(writer, second, first, 0.5), 3.5
    second = writer.change_some(first, details=False)
    return first, _reword_some(writer, second, first, 0.5), 3.0


def _some_parts_agree(writer: Writer) -> _Scored:
    first = writer.draw()
    if writer.chance(0.3):
        second = writer.change_some(writer.change_some(first, details=True), details=False)
        return first, _reword_some(writer, second, first, 0.4), 2.5
    second = writer.contradict(first)
    return first, _reword_some(writer, second, first, 0.4), 2.0


def _same_topic(writer: Writer) -> _Scored:
    first = writer.draw()
    if writer.chance(0.5):
        second = writer.contradict(writer.change_some(first, details=False))
        return first, _reword_some(writer, second, first, 0.4), 1.5
    frames = [f for f in writer.vocabulary.frames if f.topic == first.frame.topic]
    frame = writer.pick([f for f in frames if f is not first.frame])
    shared = first if writer.chance(0.6) else None
    return first, writer.draw(frame, shared=shared), 1.0


def _unrelated(writer: Writer) -> _Scored:
    first = writer.draw()
    frames = [f for f in writer.vocabulary.frames if f.topic != first.frame.topic]
    details = writer.names(first, details=True)
    overlapping = [f for f in frames if set(f.slots) & set(details)]
    if overlapping and writer.chance(0.5):
        return first, writer.draw(writer.pick(overlapping), shared=first), 0.5
    return first, writer.draw(writer.pick(frames)), 0.0


def _reword_some(writer: Writer, draft: Draft, original: Draft, ratio: float) -> Draft:
    return writer.reword(draft, original) if writer.chance(ratio) else draft


_PAIR_RULES: tuple[Callable[[Writer], _Scored], ...] = (
    _same_meaning,
    _detail_differs,
    _important_part_differs,
    _some_parts_agree,
    _same_topic,
    _unrelated,
)
