from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import pytest
from scipy.stats import spearmanr

from embedllm.data.sample import (
    MAX_PAIRS,
    MAX_TRIPLETS,
    ScoredPair,
    Triplet,
    generate_pairs,
    generate_triplets,
)
from embedllm.data.sample.generator import VOCABULARIES, WORDS_PER_SENTENCE
from embedllm.data.sample.grammar import SLOT_PATTERN, Vocabulary

Split = Literal["dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# Made with _digest below. A change here changes every number measured on the sample data.
TRIPLETS_DIGEST = "5eef226fc53e7f402af5a7cf075fe20979b0ef5e73cfab7a9f0d10d66954bce1"
PAIRS_DIGESTS: dict[Split, str] = {
    "dev": "3ca443cca2613102f2047b4e24917c4789a190a36d5ee78cf0f2f7695a3ab7ce",
    "test": "757a5f4b2405d215158854ea3759b98ab7a6d1f785b80c1a34d47fdba8f4dc26",
}
# A good encoder gets far above; word overlap must not come near.
MAX_OVERLAP_SPEARMAN = 0.6

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a after against among an as at away be been behind being by did down during for from get
        had in into is its near never not of off on out over put puts some the this to under up was
        were will with
        one two three four five half eleven thousand million
        """,
    )
)


def _digest(items: Sequence[Triplet] | Sequence[ScoredPair]) -> str:
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _overlap(pair: ScoredPair) -> float:
    first, second = _words(pair.sentence1), _words(pair.sentence2)
    return len(first & second) / len(first | second)


def _content_stems(vocabulary: Vocabulary) -> set[str]:
    """Every word that the split can print, without function words and common endings."""
    phrases = [
        phrase
        for slot in vocabulary.slots.values()
        for concept in (*slot.concepts, slot.broader)
        for phrase in concept
    ]
    templates = [t for frame in vocabulary.frames for t in frame.same + frame.opposite]
    text = " ".join([*phrases, *(SLOT_PATTERN.sub(" ", template) for template in templates)])
    return {re.sub(r"(?<=...)(ing|ed|s)$", "", word) for word in _words(text) - FUNCTION_WORDS}


def test_triplets_are_pinned() -> None:
    assert _digest(generate_triplets(50, seed=7)) == TRIPLETS_DIGEST


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_are_pinned(split: Split) -> None:
    assert _digest(generate_pairs(50, split=split, seed=7)) == PAIRS_DIGESTS[split]


def test_seeds_differ_and_a_longer_list_extends_the_shorter() -> None:
    assert generate_triplets(20, seed=1) != generate_triplets(20, seed=-1)
    assert generate_triplets(40, seed=1)[:20] == generate_triplets(20, seed=1)
    assert generate_pairs(40, split="dev", seed=1)[:20] == generate_pairs(20, split="dev", seed=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_triplets_are_distinct_and_usable(seed: int) -> None:
    triplets = generate_triplets(MAX_TRIPLETS, seed=seed)
    assert len({triplet.anchor for triplet in triplets}) == len(triplets) == MAX_TRIPLETS
    for triplet in triplets:
        assert len(set(triplet)) == 3
        for text in triplet:
            _check_sentence(text)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_are_distinct_and_balanced(split: Split, seed: int) -> None:
    pairs = generate_pairs(MAX_PAIRS, split=split, seed=seed)
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs) == MAX_PAIRS
    for pair in pairs:
        assert pair.sentence1 != pair.sentence2
        assert 0.0 <= pair.score <= 5.0
        assert (2 * pair.score).is_integer()
        _check_sentence(pair.sentence1)
        _check_sentence(pair.sentence2)
    points = Counter(int(pair.score) for pair in pairs)
    assert sorted(points) == [0, 1, 2, 3, 4, 5]
    assert max(points.values()) - min(points.values()) <= 1


def _check_sentence(text: str) -> None:
    assert len(text.split()) in WORDS_PER_SENTENCE
    assert re.fullmatch(r"[A-Z0-9$][A-Za-z0-9$,'\- ]*[a-z0-9]\.", text), text
    assert "  " not in text
    assert " ," not in text


def test_splits_share_no_content_word_and_no_frame() -> None:
    stems = {split: _content_stems(vocabulary) for split, vocabulary in VOCABULARIES.items()}
    assert min(len(words) for words in stems.values()) > 250
    for first, second in itertools.combinations(VOCABULARIES, 2):
        assert stems[first] & stems[second] == set()
        first_frames = {frame.same for frame in VOCABULARIES[first].frames}
        assert first_frames.isdisjoint(frame.same for frame in VOCABULARIES[second].frames)


@pytest.mark.parametrize("split", VOCABULARIES)
def test_frames_allow_every_edit(split: str) -> None:
    vocabulary = VOCABULARIES[split]
    topics = Counter(frame.topic for frame in vocabulary.frames)
    for frame in vocabulary.frames:
        assert len(frame.same) == len(frame.opposite) >= 3
        for template in frame.same + frame.opposite:
            assert set(SLOT_PATTERN.findall(template)) == set(frame.slots), template
        details = [vocabulary.slot(name).is_detail for name in frame.slots]
        assert any(details)
        assert details.count(False) >= 2
        assert split == "train" or topics[frame.topic] >= 2
    used = {name.rstrip("2") for frame in vocabulary.frames for name in frame.slots}
    assert used == set(vocabulary.slots)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_word_overlap_does_not_solve_the_pairs(split: Split, seed: int) -> None:
    pairs = generate_pairs(400, split=split, seed=seed)
    overlaps = [_overlap(pair) for pair in pairs]
    assert spearmanr(overlaps, [pair.score for pair in pairs]).statistic < MAX_OVERLAP_SPEARMAN
    close = [o for o, pair in zip(overlaps, pairs, strict=True) if pair.score >= 4]
    far = [o for o, pair in zip(overlaps, pairs, strict=True) if pair.score <= 2]
    assert sum(o < 0.35 for o in close) > len(pairs) / 10
    assert sum(o > 0.5 for o in far) > len(pairs) / 10


def test_hard_negatives_share_more_words_than_positives() -> None:
    triplets = generate_triplets(500, seed=0)
    positives = [_overlap(ScoredPair(t.anchor, t.positive, 5.0)) for t in triplets]
    negatives = [_overlap(ScoredPair(t.anchor, t.negative, 0.0)) for t in triplets]
    assert sum(negatives) > 1.5 * sum(positives)


@pytest.mark.parametrize("num", [-1, MAX_TRIPLETS + 1])
def test_triplets_refuse_an_impossible_number(num: int) -> None:
    with pytest.raises(ValueError, match=rf"num is {num}; .* 0 to {MAX_TRIPLETS} triplets"):
        generate_triplets(num, seed=0)


@pytest.mark.parametrize("num", [-1, MAX_PAIRS + 1])
def test_pairs_refuse_an_impossible_number(num: int) -> None:
    with pytest.raises(ValueError, match=rf"num is {num}; .* 0 to {MAX_PAIRS} pairs per split"):
        generate_pairs(num, split="dev", seed=0)


def test_pairs_refuse_the_training_split() -> None:
    with pytest.raises(ValueError, match="split is 'train'"):
        generate_pairs(1, split="train", seed=0)  # type: ignore[arg-type]


def test_nothing_is_a_valid_number() -> None:
    assert generate_triplets(0, seed=0) == []
    assert generate_pairs(0, split="test", seed=0) == []
