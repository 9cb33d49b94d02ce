"""Batches made ahead: the order, the position of a run and the time that was waited."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from embedllm.data import loader as loader_module
from embedllm.data.loader import ContrastiveBatch, ContrastiveLoader
from embedllm.data.schema import Example
from embedllm.errors import DataError

PATIENCE_SECONDS = 30.0
NUM_BATCHES = 6
EXAMPLES = [Example(f"a{i}", f"p{i}", (f"n{i}",)) for i in range(4 * NUM_BATCHES)]


def _tokenize(texts: Sequence[str]) -> list[list[int]]:
    return [[ord(char) for char in text] for text in texts]


def _loader(
    tokenize: Callable[[Sequence[str]], list[list[int]]] = _tokenize,
) -> ContrastiveLoader:
    return ContrastiveLoader(EXAMPLES, tokenize, batch_size=4, seed=0)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def _one_by_one(
    function: Callable[[Any], Any], items: Iterable[Any], *, depth: int
) -> Iterator[Any]:
    """Stands in for `prefetch` without anything made ahead."""
    for item in items:
        yield function(item)


class Counting:
    """A tokenize function that says how often it was called, and lets others wait for it."""

    def __init__(self) -> None:
        self.num_calls = 0
        self._changed = threading.Condition()

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        with self._changed:
            self.num_calls += 1
            self._changed.notify_all()
        return _tokenize(texts)

    def wait_for(self, num_calls: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.num_calls >= num_calls, PATIENCE_SECONDS)


def test_the_order_is_that_of_batches_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = _loader()
    ahead = [list(loader) for _ in range(3)]
    monkeypatch.setattr(loader_module, "prefetch", _one_by_one)
    loader = _loader()
    assert [list(loader) for _ in range(3)] == ahead
    assert ahead[0] != ahead[1]


@pytest.mark.parametrize("stop", range(1, NUM_BATCHES + 1))
def test_the_position_counts_no_batch_that_was_only_made_ahead(stop: int) -> None:
    expected = list(_loader())
    tokenize = Counting()
    loader = _loader(tokenize)
    taken = []
    for batch in loader:
        taken.append(batch)
        tokenize.wait_for(min(NUM_BATCHES, len(taken) + loader_module._BATCHES_AHEAD))
        assert loader.state_dict() == {"num_yielded": len(taken)}
        if len(taken) == stop:
            break
    assert not _threads()
    assert loader.state_dict() == {"num_yielded": stop}
    resumed = _loader()
    resumed.load_state_dict(loader.state_dict())
    if stop < NUM_BATCHES:
        taken += resumed
        # The loader that was stopped goes on as well as a new one.
        assert list(loader) == expected[stop:]
    assert taken == expected


def test_an_error_leaves_the_position_at_the_batch_before() -> None:
    first = next(iter(_loader()))
    tokenize = Counting()

    def fail_later(texts: Sequence[str]) -> list[list[int]]:
        rows = tokenize(texts)
        if tokenize.num_calls == 2:
            raise DataError("half of a character")
        return rows

    loader = _loader(fail_later)
    batches = iter(loader)
    assert next(batches) == first
    tokenize.wait_for(2)
    with pytest.raises(DataError, match="half of a character"):
        next(batches)
    assert loader.state_dict() == {"num_yielded": 1}
    assert not _threads()


def test_no_random_number_is_drawn() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1]
    list(_loader())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


# --- Time waited --------------------------------------------------------------------------------

PAUSE_SECONDS = 0.02
LONG_PAUSE_SECONDS = 0.3


def test_waiting_for_a_slow_source_is_counted() -> None:
    may_begin = threading.Semaphore(0)

    def slow(texts: Sequence[str]) -> list[list[int]]:
        # A batch is begun when it is asked for, so every one is waited for.
        assert may_begin.acquire(timeout=PATIENCE_SECONDS)
        time.sleep(PAUSE_SECONDS)
        return _tokenize(texts)

    loader = _loader(slow)
    assert loader.wait_seconds == 0
    batches = iter(loader)
    for number in range(1, NUM_BATCHES + 1):
        may_begin.release()
        next(batches)
        assert loader.wait_seconds >= number * PAUSE_SECONDS


def test_what_is_ready_is_not_waited_for() -> None:
    pauses = iter([LONG_PAUSE_SECONDS])
    tokenize = Counting()

    def slow_at_first(texts: Sequence[str]) -> list[list[int]]:
        time.sleep(next(pauses, 0))
        return tokenize(texts)

    loader = _loader(slow_at_first)
    waited = []
    for number, _ in enumerate(loader, start=1):
        waited.append(loader.wait_seconds)
        tokenize.wait_for(min(NUM_BATCHES, number + loader_module._BATCHES_AHEAD))
        # A step, or an evaluation between two of them: nobody waits for data.
        time.sleep(LONG_PAUSE_SECONDS / 5)
    assert waited[0] >= LONG_PAUSE_SECONDS
    # The time between them was as long as the first, the waits for all others nearly nothing.
    assert waited[-1] - waited[0] < LONG_PAUSE_SECONDS


def test_a_batch_holds_plain_lists() -> None:
    batch = next(iter(_loader()))
    assert isinstance(batch, ContrastiveBatch)
    assert {type(number) for ids in batch.token_ids for number in ids} == {int}
