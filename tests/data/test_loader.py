"""Order and layout of contrastive batches, and the position that a resumed run starts from."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from embedllm.data.loader import ContrastiveBatch, ContrastiveLoader
from embedllm.data.schema import Example
from embedllm.errors import DataError


def _tokenize(texts: Sequence[str]) -> list[list[int]]:
    return [[ord(char) for char in text] for text in texts]


def _decode(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def _examples(count: int, num_negatives: int = 1) -> list[Example]:
    return [
        Example(
            f"anchor {i}", f"positive {i}", tuple(f"negative {i}.{k}" for k in range(num_negatives))
        )
        for i in range(count)
    ]


def _loader(
    examples: list[Example], *, batch_size: int = 4, seed: int = 0, drop_last: bool = False
) -> ContrastiveLoader:
    return ContrastiveLoader(
        examples, _tokenize, batch_size=batch_size, seed=seed, drop_last=drop_last
    )


def _anchors(batches: Sequence[ContrastiveBatch]) -> list[str]:
    return [_decode(ids) for b in batches for ids in b.token_ids[: b.num_anchors]]


# --- Layout of a batch --------------------------------------------------------------------------


def test_a_batch_is_anchors_then_positives_then_negatives() -> None:
    (batch,) = _loader(_examples(3, num_negatives=2))
    texts = [_decode(ids) for ids in batch.token_ids]
    order = [text.split()[1] for text in texts[:3]]
    assert sorted(order) == ["0", "1", "2"]
    assert texts[3:6] == [f"positive {i}" for i in order]
    assert texts[6:] == [f"negative {i}.{k}" for i in order for k in range(2)]
    assert (batch.num_anchors, batch.negative_owner) == (3, (0, 0, 1, 1, 2, 2))
    assert batch.num_tokens == sum(len(text) for text in texts)


def test_owners_follow_the_number_of_negatives_of_each_example() -> None:
    examples = [
        Example("a", "b", ("x0", "x1", "x2")),
        Example("c", "d", ()),
        Example("e", "f", ("y0",)),
    ]
    expected = {"a": ["x0", "x1", "x2"], "c": [], "e": ["y0"]}
    (batch,) = _loader(examples)
    texts = [_decode(ids) for ids in batch.token_ids]
    owned: dict[str, list[str]] = {anchor: [] for anchor in texts[:3]}
    for row, text in zip(batch.negative_owner, texts[6:], strict=True):
        owned[texts[row]].append(text)
    assert owned == expected


def test_pairs_have_no_negatives() -> None:
    (batch,) = _loader(_examples(4, num_negatives=0))
    assert (len(batch.token_ids), batch.negative_owner) == (8, ())


# --- Order --------------------------------------------------------------------------------------


def test_every_epoch_is_another_permutation() -> None:
    loader = _loader(_examples(40))
    epochs = [_anchors(list(loader)) for _ in range(3)]
    expected = sorted(example.anchor for example in _examples(40))
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    # Not the order of the file either.
    assert [e.anchor for e in _examples(40)] not in epochs


def test_the_order_depends_on_the_seed_alone() -> None:
    first, again, other = (
        _anchors([b for _ in range(2) for b in loader])
        for loader in (_loader(_examples(40), seed=s) for s in (7, 7, 8))
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [
        (8, False, [4, 4]),
        (10, False, [4, 4, 2]),
        (10, True, [4, 4]),
        # A batch of one has no in-batch negatives.
        (9, False, [4, 4]),
        (9, True, [4, 4]),
        (2, False, [2]),
        (5, False, [4]),
    ],
)
def test_sizes_of_the_batches(count: int, drop_last: bool, sizes: list[int]) -> None:
    loader = _loader(_examples(count), drop_last=drop_last)
    assert len(loader) == len(sizes)
    for _ in range(2):
        assert [batch.num_anchors for batch in loader] == sizes


def test_an_example_left_out_of_one_epoch_is_in_another() -> None:
    loader = _loader(_examples(9))
    seen = {anchor for _ in range(8) for anchor in _anchors(list(loader))}
    assert len(seen) == 9


@pytest.mark.parametrize(("count", "drop_last"), [(1, False), (3, True), (0, False)])
def test_refuses_data_that_make_no_batch(count: int, drop_last: bool) -> None:
    with pytest.raises(DataError, match=rf"{count} examples make no batch of 4.*data\.drop_last"):
        _loader(_examples(count), drop_last=drop_last)


# --- Position -----------------------------------------------------------------------------------

NUM_EXAMPLES = 10
BATCHES_PER_EPOCH = 3
NUM_EPOCHS = 3


def _take(loader: ContrastiveLoader, count: int) -> list[ContrastiveBatch]:
    """Returns the next batches, over epoch borders, and leaves an epoch begun where it is."""
    batches: list[ContrastiveBatch] = []
    while len(batches) < count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


@pytest.mark.parametrize("position", range(BATCHES_PER_EPOCH * NUM_EPOCHS))
def test_goes_on_from_every_position(position: int) -> None:
    whole = _take(_loader(_examples(NUM_EXAMPLES)), BATCHES_PER_EPOCH * NUM_EPOCHS)
    first = _loader(_examples(NUM_EXAMPLES))
    before = _take(first, position)
    state = first.state_dict()
    # Reading on must not move the position that was taken.
    _take(first, 2)
    second = _loader(_examples(NUM_EXAMPLES))
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert before + _take(second, len(whole) - position) == whole


def test_the_first_iteration_after_a_resume_ends_with_the_epoch() -> None:
    loader = _loader(_examples(NUM_EXAMPLES))
    loader.load_state_dict({"num_yielded": 1})
    assert [len(list(loader)) for _ in range(3)] == [2, 3, 3]
    # A position on the border belongs to the next epoch.
    loader.load_state_dict({"num_yielded": BATCHES_PER_EPOCH})
    assert len(list(loader)) == BATCHES_PER_EPOCH


def test_the_position_counts_a_batch_when_it_is_given_out() -> None:
    loader = _loader(_examples(NUM_EXAMPLES))
    batches = iter(loader)
    positions = []
    for _ in batches:
        positions.append(loader.state_dict()["num_yielded"])
    assert positions == [1, 2, 3]
