"""Work done ahead of its use, on one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def prefetch(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, depth: int
) -> Generator[_Result, None, None]:
    """Yields `function(item)` of every item, in their order, made ahead of time.

    An error of `function` is raised where its result is due. The thread ends with the iteration,
    also where that is closed early; of what is not begun by then nothing is done.

    Args:
        function: Called on the thread.
        items: Taken on the caller's thread.
        depth: Results that are made, or being made, while the caller is busy with one.
    """
    pending: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
