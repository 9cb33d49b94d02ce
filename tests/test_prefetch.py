"""Work made ahead: the same results and order, errors where they are due, no thread left."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedllm.prefetch import prefetch

PATIENCE_SECONDS = 30.0


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@given(items=st.lists(st.integers()), depth=st.integers(0, 4))
def test_gives_what_a_plain_loop_gives(items: list[int], depth: int) -> None:
    assert list(prefetch(str, items, depth=depth)) == [str(item) for item in items]
    assert not _threads()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_takes_so_many_items_ahead_and_no_more(depth: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(6):
            taken.append(item)
            yield item

    for number, _ in enumerate(prefetch(str, items(), depth=depth), start=1):
        assert len(taken) == min(6, number + depth)


def test_works_on_another_thread_while_the_caller_is_busy() -> None:
    done = [threading.Event() for _ in range(3)]
    threads = set()

    def make(item: int) -> int:
        threads.add(threading.current_thread().name)
        done[item].set()
        return item

    results = prefetch(make, range(3), depth=2)
    assert next(results) == 0
    # Nobody has asked for these yet.
    assert all(event.wait(PATIENCE_SECONDS) for event in done)
    assert list(results) == [1, 2]
    assert threads == {"prefetch_0"}


def test_an_error_is_raised_where_its_result_is_due() -> None:
    error = ValueError("the third")

    def make(item: int) -> int:
        if item == 2:
            raise error
        return item

    results = prefetch(make, range(9), depth=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third") as caught:
        next(results)
    assert caught.value is error
    assert not _threads()
    assert list(results) == []


def test_an_error_of_the_items_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no more items")

    results = prefetch(str, items(), depth=1)
    with pytest.raises(ValueError, match="no more items"):
        next(results)
    assert not _threads()


def test_closing_ends_the_thread_and_drops_what_is_not_begun() -> None:
    made = []

    def make(item: int) -> int:
        time.sleep(0.005)
        made.append(item)
        return item

    results = prefetch(make, range(2000), depth=1000)
    assert next(results) == 0
    results.close()
    assert not _threads()
    # All that were waiting would have taken five seconds.
    assert 1 <= len(made) < 1000
    # One may be begun while those before it are being dropped.
    assert made[:-1] == list(range(len(made) - 1))


def test_nothing_happens_before_the_first_result_is_asked_for() -> None:
    def items() -> Iterator[int]:
        raise AssertionError
        yield

    prefetch(str, items(), depth=2)
    assert not _threads()


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise KeyboardInterrupt"])
def test_an_iteration_left_open_does_not_hang_the_exit(end: str) -> None:
    code = (
        "from embedllm.prefetch import prefetch\n"
        "results = prefetch(str, range(100), depth=2)\n"
        f"assert next(results) == '0'\n{end}"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], timeout=PATIENCE_SECONDS, check=False, capture_output=True
    )
    assert (child.returncode == 0) == (end == "")
