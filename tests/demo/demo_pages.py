"""Demos in processes of their own, for the tests that click through them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from documents import documented
from playwright.sync_api import Locator, Page
from tiny_runs import REPOSITORY, heed_ctrl_c, script_environment


@dataclass(frozen=True)
class Demo:
    """A demo that is running."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def running_demo(*arguments: str) -> Iterator[Demo]:
    """Starts `python -m embedllm demo` on a free port; ends it afterwards."""
    _, *words = documented("python -m embedllm demo", page="docs/demo.md")
    process = subprocess.Popen(
        [sys.executable, *words, "port=0", *arguments],
        cwd=REPOSITORY,
        # The library behaves differently where it finds itself in a test.
        env=script_environment(PYTEST_CURRENT_TEST=None),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    try:
        assert process.stdout is not None
        # The one line that it prints, or nothing when it has ended.
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.communicate()[1]
        yield Demo(url, process)
    finally:
        process.terminate()
        process.communicate()


_ANSWERS = {"Compare": ".matrix", "Search": ".ranking", "Look inside": ".parts"}


def open_part(page: Page, name: str) -> Locator:
    """Returns a part of the page, opened, with its first answer there."""
    page.get_by_role("tab", name=name).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator(_ANSWERS[name]).first.wait_for()
    return panel
