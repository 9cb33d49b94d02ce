"""Takes the pictures of docs/demo.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent.parent
sys.path += [str(TESTS), str(TESTS / "demo")]

from chromium import open_page  # noqa: E402
from demo_pages import open_part, running_demo  # noqa: E402

WIDE, PHONE = 1280, 390


class Picture(NamedTuple):
    """A picture of the page: which part of it, in which colours, how wide."""

    name: str
    part: str
    colours: str = "light"
    width: int = WIDE


PICTURES = (
    Picture("demo-compare", "Compare"),
    Picture("demo-search", "Search"),
    Picture("demo-inside", "Look inside"),
    Picture("demo-compare-dark", "Compare", "dark"),
    Picture("demo-inside-dark", "Look inside", "dark"),
    Picture("demo-compare-phone", "Compare", "light", PHONE),
    Picture("demo-search-phone", "Search", "light", PHONE),
    Picture("demo-inside-phone", "Look inside", "dark", PHONE),
)


def take_pictures(url: str, folder: Path) -> list[Path]:
    """Returns the pictures of a demo that is running, written to `folder`."""
    paths = []
    for picture in PICTURES:
        with open_page(url, width=picture.width, color_scheme=picture.colours) as page:
            open_part(page, picture.part)
            # Away from what it would highlight.
            page.mouse.move(0, 0)
            path = folder / f"{picture.name}.png"
            page.screenshot(path=path, full_page=True, animations="disabled")
            paths.append(path)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where they go")
    parser.add_argument("overrides", nargs="*", help="of python -m embedllm demo")
    options = parser.parse_args()
    with running_demo(*options.overrides) as demo:
        take_pictures(demo.url, options.folder)
