"""Takes the pictures of the HTML page that docs/report.md shows: python THIS FOLDER."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chromium import open_page
from html_pages import write_kept_page
from playwright.sync_api import Page


def take_screenshots(page: Path, folder: Path) -> list[Path]:
    """Writes one picture for each view of a page and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    url = page.as_uri()
    with open_page(url, width=1280, height=860) as view:
        wait_until_ready(view)
        view.screenshot(path=folder / "report-scores.png")
        _shoot(view, "#prompts .wide >> nth=1", folder / "report-prompts.png")
        _shoot(view, "#scaling .wide", folder / "report-scaling.png")
        _shoot(view, "#geometry .wide", folder / "report-geometry.png")
    with open_page(url, width=1280, height=860, color_scheme="dark") as view:
        wait_until_ready(view)
        view.evaluate("document.querySelector('#demonstrations').scrollIntoView()")
        view.screenshot(path=folder / "report-dark.png")
    with open_page(url, width=390, height=780, device_scale_factor=1.5) as view:
        wait_until_ready(view)
        view.evaluate("document.querySelector('#prompts').scrollIntoView()")
        view.screenshot(path=folder / "report-phone.png")
    return sorted(folder.glob("report-*.png"))


def wait_until_ready(view: Page) -> None:
    """Waits until the tables can be sorted; what is scrolled to is there at once."""
    view.wait_for_selector("html[data-ready]")
    view.add_style_tag(content="html { scroll-behavior: auto }")


def _shoot(view: Page, selector: str, path: Path) -> None:
    view.locator(selector).first.screenshot(path=path)


if __name__ == "__main__":
    # The command that makes the page has arguments of its own there.
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        take_screenshots(write_kept_page(Path(work)), target)
