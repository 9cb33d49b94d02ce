"""Takes the pictures of the HTML page that docs/report.md shows: python THIS FOLDER."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chromium import open_page
from html_pages import write_kept_page
from playwright.sync_api import FloatRect, Page

# Below what a picture ends with, in pixels.
_MARGIN = 4


def take_screenshots(page: Path, folder: Path) -> list[Path]:
    """Writes one picture for each view of a page and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    url = page.as_uri()
    with open_page(url) as view:
        wait_until_ready(view)
        _shoot_down_to(view, "#sts table.data tbody tr >> nth=6", folder / "report-scores.png")
        _shoot(view, "#prompts .wide >> nth=1", folder / "report-prompts.png")
        _shoot(view, "#scaling .wide", folder / "report-scaling.png")
        _shoot(view, "#geometry .wide", folder / "report-geometry.png")
    with open_page(url, color_scheme="dark") as view:
        wait_until_ready(view)
        _shoot_down_to(view, "#demonstrations summary", folder / "report-dark.png", start="section")
    with open_page(url, width=390, device_scale_factor=1.5) as view:
        wait_until_ready(view)
        _shoot_down_to(view, "#prompts summary", folder / "report-phone.png", start="section")
    return sorted(folder.glob("report-*.png"))


def wait_until_ready(view: Page) -> None:
    """Waits until the tables can be sorted; what is scrolled to is there at once."""
    view.wait_for_selector("html[data-ready]")
    view.add_style_tag(content="html { scroll-behavior: auto }")


def _shoot(view: Page, selector: str, path: Path) -> None:
    view.locator(selector).first.screenshot(path=path)


def _shoot_down_to(view: Page, selector: str, path: Path, *, start: str = "body") -> None:
    """Takes the page from where what holds an element begins to where that element ends."""
    edges = "(e, start) => [e.closest(start), e].map((each) => each.getBoundingClientRect())"
    first, last = view.locator(selector).first.evaluate(edges, start)
    height = last["bottom"] + _MARGIN - first["top"]
    width = view.evaluate("innerWidth")
    clip: FloatRect = {"x": 0, "y": first["top"], "width": width, "height": height}
    view.screenshot(path=path, full_page=True, clip=clip)


if __name__ == "__main__":
    # The command that makes the page has arguments of its own there.
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        take_screenshots(write_kept_page(Path(work)), target)
