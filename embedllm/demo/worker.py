"""The one thread that computes: the event loop stays free, and the model does one thing at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from embedllm.errors import EmbedllmError

Answer = TypeVar("Answer")


class BusyError(EmbedllmError):
    """More wait for the model than `max_waiting` allows."""


class Worker:
    """Runs functions one after the other, in the order in which they come.

    Args:
        max_waiting: How many may wait, the one at work included.
    """

    def __init__(self, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._max_waiting = max_waiting
        self._num_waiting = 0

    async def run(self, function: Callable[[], Answer]) -> Answer:
        """Returns what the function does.

        Raises:
            BusyError: Too many wait already.
        """
        if self._num_waiting >= self._max_waiting:
            raise BusyError(
                f"{self._num_waiting} others wait for the model (max_waiting); try again in a while"
            )
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function)
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """Drops what waits; what is at work ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
