"""Pages in a Chromium without a window: what they show, ask for and complain about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

_PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
_LOCAL: Final = ("127.0.0.1", "localhost", "")

PROGRAM: Final = next(filter(None, map(shutil.which, _PROGRAMS)), None)

# JavaScript: light(...colors) is the luminance of colours painted over one another, the last one on
# top; contrast(a, b) compares two luminances. Both as WCAG 2.2 defines them.
LIGHT: Final = """
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (...colors) => {
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (apt-get install it)")


@contextmanager
def open_page(url: str, *, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Page]:
    """Yields a page; at the end nothing must have failed there or been asked of another machine.

    Args:
        url: `http://127.0.0.1...` or `file:///...`.
        width: Of the window, in pixels.
        height: Likewise.
        options: Of playwright's `new_context`, such as `color_scheme="dark"`.
    """
    complaints: list[str] = []
    strangers: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def look(request: Request) -> None:
        if urlsplit(request.url).hostname not in (*_LOCAL, None):
            strangers.append(request.url)

    # Root has no sandbox to start in.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=arguments)
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", look)
        try:
            page.goto(url)
            yield page
        finally:
            browser.close()
    assert not complaints
    assert not strangers
