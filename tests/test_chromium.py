"""The browser of the tests sees what it shall see."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import needs_chromium, open_page


def _write(folder: Path, script: str) -> str:
    path = folder / "page.html"
    path.write_text(f"<h1>a page</h1><script>{script}</script>", encoding="utf-8")
    return path.as_uri()


@needs_chromium
def test_a_page_is_read(tmp_path: Path) -> None:
    with open_page(_write(tmp_path, "document.title = 'seen'")) as page:
        assert page.inner_text("h1") == "a page"
        assert page.title() == "seen"


@needs_chromium
@pytest.mark.parametrize(
    "script",
    [
        "console.error('bad')",
        "nothing.is.here()",
        "fetch('http://192.0.2.1/x', {mode: 'no-cors'}).catch(() => 0)",
    ],
)
def test_what_is_wrong_is_seen(tmp_path: Path, script: str) -> None:
    with pytest.raises(AssertionError), open_page(_write(tmp_path, script)) as page:
        page.wait_for_timeout(100)
