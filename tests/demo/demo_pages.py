"""Demos in processes of their own, for the tests that click through them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from documents import documented
from forked import Forked
from playwright.sync_api import Locator, Page
from tiny_runs import REPOSITORY, script_environment


@dataclass(frozen=True)
class Demo:
    """A demo that is running."""

    url: str
    process: Forked


@contextmanager
def running_demo(*arguments: str) -> Iterator[Demo]:
    """Starts `python -m embedllm demo` on a free port; ends it afterwards."""
    _, *words = documented("python -m embedllm demo", page="docs/demo.md")
    # The library behaves differently where it finds itself in a test.
    environment = script_environment(PYTEST_CURRENT_TEST=None)
    process = Forked([*words, "port=0", *arguments], environment, folder=REPOSITORY)
    try:
        # The one line that it prints, or nothing when it has ended.
        url = next(process.lines(), "").strip()
        assert url.startswith("http://"), process.wait(60).stderr
        yield Demo(url, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


_ANSWERS = {"Compare": ".matrix", "Search": ".ranking", "Look inside": ".parts"}


def open_part(page: Page, name: str) -> Locator:
    """Returns a part of the page, opened, with its first answer there."""
    page.get_by_role("tab", name=name).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator(_ANSWERS[name]).first.wait_for()
    return panel
