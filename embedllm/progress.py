"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embedllm.log import error_console, get_logger, is_quiet, process_number

_log = get_logger(__name__)
_LOG_EVERY_SECONDS = 20.0


@contextmanager
def progress_bar(label: str, *, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields a function that advances the progress by a number of units.

    On a terminal this is a rich bar with rate and time left; bars nest. Into a file, where a bar
    would be invisible or garbage, it is one log line every 20 seconds with the same figures.
    """
    if is_quiet():
        yield lambda count: None
        return
    if sys.stderr.isatty():
        with rich_bar(label, total, unit) as advance:
            yield advance
        return
    start = last = time.monotonic()
    done = 0

    def advance_log(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _LOG_EVERY_SECONDS or (done == total and last != start):
            last = now
            rate = done / (now - start)
            left = format_seconds((total - done) / rate) if rate else "?"
            _log.info("%s: %d/%d %s, %.1f/s, %s left", label, done, total, unit, rate, left)

    yield advance_log


def format_seconds(seconds: float) -> str:
    """Returns a duration as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


@contextmanager
def rich_bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields a function that advances a bar on the terminal; without one, nothing is shown."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = error_console()
    is_shown = console.is_terminal and process_number() == 0 and not is_quiet()
    with Progress(*columns, console=console, disable=not is_shown) as bars:
        task = bars.add_task(label, total=total, rate="")

        def advance(count: int) -> None:
            bars.advance(task, count)
            speed = bars.tasks[task].speed
            bars.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield advance
