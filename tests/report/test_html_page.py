"""The HTML page of the kept results, in Chromium: pictures, tables, phone, dark, paper."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from chromium import LIGHT, needs_chromium, open_page
from documents import documented
from html_pages import write_kept_page
from PIL import Image
from playwright.sync_api import Page, expect
from report_screenshots import take_screenshots, wait_until_ready

PAGE = "docs/report.md"
SECTIONS = (
    *("sts", "prompts", "demonstrations", "scaling", "learning", "geometry", "transfer"),
    *("speed", "runs", "sources"),
)
MAX_BYTES = 1_500_000
MAX_PICTURE_BYTES = 300_000
# WCAG 2.2, level AA: text, and what else has to be told apart.
TEXT_CONTRAST, PICTURE_CONTRAST = 4.5, 3.0

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kept_page(tmp_path_factory.mktemp("page"))


def _column(view: Page, section: str, number: int) -> list[str]:
    """Returns the cells of a column of the first table of a section, as they are shown."""
    selector = f"#{section} table.data >> nth=-1"
    return view.locator(selector).locator(f"tbody tr > :nth-child({number})").all_inner_texts()


def _sort(view: Page, section: str, title: str, *, first: str) -> None:
    """Clicks a heading and waits until the first row is the one with this text."""
    table = view.locator(f"#{section} table.data").last
    table.get_by_role("columnheader", name=title).click()
    expect(table.locator("tbody tr").first).to_contain_text(first)


def test_it_is_one_file_of_moderate_size(page_path: Path) -> None:
    text = page_path.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    # Links may be followed; nothing is loaded.
    assert not re.search(r"<(?:script|img|iframe|audio|video|source|embed)[^>]*\ssrc=", text)
    own = text.partition('id="tables-script"')[0]
    assert re.findall(r"<link[^>]*>", own) == ['<link rel="icon" href="data:,">']
    assert "@import" not in own
    assert "url(" not in own.replace("url(#", "")
    ids = re.findall(r'\sid="([^"]+)"', own)
    assert [name for name, number in Counter(ids).items() if number > 1] == []


def test_all_pictures_are_there_and_named(page_path: Path) -> None:
    with open_page(page_path.as_uri()) as view:
        wait_until_ready(view)
        assert [view.locator(f"#{name} h2").count() for name in SECTIONS] == [1] * len(SECTIONS)
        assert view.locator(".missing").count() == 0
        figures = view.locator("figure")
        assert figures.count() >= 9
        for figure in figures.all():
            picture = figure.locator(".wide svg")
            box = picture.bounding_box()
            assert box is not None
            assert box["width"] > 600
            assert box["height"] > 100
            assert picture.get_attribute("role") == "img"
            assert len(picture.locator("title").text_content() or "") > 10
            assert len(picture.locator("desc").text_content() or "") > 40
            assert picture.locator("path").count() > 5
            assert not figure.locator(".narrow").is_visible()
            # The data and the command are behind it.
            figure.locator("summary").click()
            assert figure.locator("pre").inner_text().startswith("python ")
            assert figure.locator("tbody tr").count() >= 2


def test_tables_are_sorted_by_clicks(page_path: Path) -> None:
    with open_page(page_path.as_uri()) as view:
        wait_until_ready(view)
        before = _column(view, "sts", 1)
        assert len(before) > 40
        _sort(view, "sts", "mean", first="LLaMA 30B")
        means = [float(m) for m in _column(view, "sts", 11) if m != "-"]
        assert means == sorted(means, reverse=True)
        # Who has no score is last, both ways.
        without = ["-"] * (len(before) - len(means))
        assert without
        assert _column(view, "sts", 11)[len(means) :] == without
        _sort(view, "sts", "mean", first="44.58")
        assert _column(view, "sts", 11) == [*(f"{mean:.2f}" for mean in means[::-1]), *without]
        _sort(view, "sts", "mean", first="gemma3")
        assert _column(view, "sts", 1) == before
        _sort(view, "sts", "method", first="Echo")
        methods = _column(view, "sts", 2)
        assert methods == sorted(methods, key=str.casefold)


def test_tables_are_filtered_by_typing(page_path: Path) -> None:
    with open_page(page_path.as_uri()) as view:
        wait_until_ready(view)
        field = view.locator("#sts input[type=search]")
        field.fill("windpipe float32")
        expect(view.locator("#sts table.data tbody tr")).to_have_count(1)
        rows = view.locator("#sts table.data tbody tr").all_inner_texts()
        assert all("Windpipe" in row and "float32" in row for row in rows)
        field.fill("no such thing")
        expect(view.locator("#sts table.data tbody")).to_have_text("No row has this.")


def test_the_three_hundred_candidates_can_be_searched(page_path: Path) -> None:
    with open_page(page_path.as_uri()) as view:
        wait_until_ready(view)
        figure = view.locator("#demonstrations figure")
        figure.locator("summary").click()
        assert "of 600 rows" in figure.locator(".dt-info").inner_text()
        first = figure.locator("tbody tr").first.inner_text()
        figure.locator(".dt-paging-button.next").click()
        expect(figure.locator("tbody tr").first).not_to_have_text(first)
        figure.locator("input[type=search]").fill("trachea")
        # Both models were searched with the same candidates.
        expect(figure.locator("tbody tr")).to_have_count(2)


def test_a_phone_has_no_sideways_scrolling(page_path: Path) -> None:
    with open_page(page_path.as_uri(), width=360, height=740, has_touch=True) as view:
        wait_until_ready(view)
        for summary in view.locator("summary").all():
            summary.click()
        assert view.evaluate("document.documentElement.scrollWidth") == 360
        for figure in view.locator("figure").all():
            assert not figure.locator(".wide").is_visible()
            picture = figure.locator(".narrow svg")
            box = picture.bounding_box()
            assert box is not None
            assert 300 < box["width"] <= 340
            # Letters are not made small to fit.
            scale = box["width"] / float((picture.get_attribute("viewBox") or "").split()[2])
            assert scale > 0.9


_HIDDEN = """
(svg) => {
  const texts = [...svg.querySelectorAll("text")]
    .map((e) => [e.textContent, e.getBoundingClientRect()]);
  const holds = (box, x, y) => x > box.left && x < box.right && y > box.top && y < box.bottom;
  const found = [];
  for (const path of svg.querySelectorAll("path[style*='stroke: var(--series']")) {
    const matrix = path.getScreenCTM();
    for (let at = 0; at <= path.getTotalLength(); at += 1) {
      const point = path.getPointAtLength(at).matrixTransform(matrix);
      found.push(...texts.filter(([, box]) => holds(box, point.x, point.y)).map(([text]) => text));
    }
  }
  for (const [text, a] of texts) {
    for (const [other, b] of texts) {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      // Letters do not fill the height of their line.
      if (text < other && across > 0 && down > 1) found.push(`${text} / ${other}`);
    }
  }
  const room = svg.getBoundingClientRect();
  found.push(...texts.filter(([, box]) => box.left < room.left - 1 || box.right > room.right + 1)
    .map(([text]) => text));
  return [...new Set(found)];
}
"""


@pytest.mark.parametrize(("width", "shown"), [(1280, ".wide"), (390, ".narrow")])
def test_no_text_of_a_picture_lies_on_a_line_or_a_text(
    width: int, shown: str, page_path: Path
) -> None:
    with open_page(page_path.as_uri(), width=width) as view:
        wait_until_ready(view)
        pictures = view.locator(f"figure {shown} svg")
        assert pictures.count() >= 9
        hidden = {p.locator("title").text_content(): p.evaluate(_HIDDEN) for p in pictures.all()}
        assert {title: texts for title, texts in hidden.items() if texts} == {}
        assert view.locator("#scaling svg").locator("text", has_text="gemma3-270m").count() == 2


_CONTRASTS = f"""
() => {{
  {LIGHT}
  const style = getComputedStyle(document.documentElement);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const found = {{}};
  for (const name of ["ink", "muted", "link", ...[1, 2, 3, 4, 5, 6].map((n) => `series-${{n}}`)]) {{
    found[name] = contrast(paper, light(style.getPropertyValue(`--${{name}}`)));
  }}
  return [paper, found];
}}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str, page_path: Path) -> None:
    with open_page(page_path.as_uri(), color_scheme=scheme) as view:
        wait_until_ready(view)
        paper, contrasts = view.evaluate(_CONTRASTS)
        assert paper < 0.02 if scheme == "dark" else paper > 0.9
        for name, contrast in contrasts.items():
            least = PICTURE_CONTRAST if name.startswith("series") else TEXT_CONTRAST
            assert contrast >= least, (name, contrast)
        # Pictures have the page's colours, not their own.
        ink = view.evaluate("getComputedStyle(document.body).color")
        for label in view.locator("#scaling .wide svg text").all()[:3]:
            assert label.evaluate("e => getComputedStyle(e).fill") == ink
        mark = view.locator("#prompts .wide svg use").first
        assert mark.evaluate("e => getComputedStyle(e).stroke") != ink


def test_paper_has_the_tables_whole_and_no_controls(page_path: Path) -> None:
    with open_page(page_path.as_uri(), color_scheme="dark") as view:
        wait_until_ready(view)
        num_rows = view.locator("#sts table.data tbody tr").count()
        view.emulate_media(media="print")
        for selector in ("nav", "input[type=search]", "summary", ".dt-paging"):
            assert not any(found.is_visible() for found in view.locator(selector).all())
        assert view.locator("#scaling .wide svg").is_visible()
        assert view.locator("#sts table.data tbody tr:visible").count() == num_rows
        # Ink on white paper, whatever the screen has.
        paper, _ = view.evaluate(_CONTRASTS)
        assert paper > 0.9
        # A4 with margins of 1 cm: 190 mm at 96 points an inch.
        view.set_viewport_size({"width": 718, "height": 1000})
        assert view.evaluate("document.documentElement.scrollWidth") <= 718
        edges = "tables => tables.map(table => table.getBoundingClientRect().right)"
        assert max(view.eval_on_selector_all("section > .scroll table", edges)) <= 718
        assert view.locator("#scaling .wide svg").is_visible()
        assert view.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_the_tables_are_whole(page_path: Path) -> None:
    with open_page(page_path.as_uri(), java_script_enabled=False) as view:
        assert view.locator("#sts table.data tbody tr").count() > 40
        assert view.locator("#scaling .wide svg").is_visible()
        assert not view.locator("input[type=search]").count()


def test_the_documented_pictures_are_made(page_path: Path, tmp_path: Path) -> None:
    words = documented("python tests/report/report_screenshots.py docs/pictures", page=PAGE)
    assert Path(words[1]).resolve() == Path(sys.modules["report_screenshots"].__file__ or "")
    pictures = take_screenshots(page_path, tmp_path / "pictures")
    kept = sorted(Path(words[2]).glob("report-*.png"))
    assert [path.name for path in kept] == [path.name for path in pictures]
    for old, new in zip(kept, pictures, strict=True):
        (width, height), (new_width, new_height) = Image.open(old).size, Image.open(new).size
        assert width == new_width, old
        # Other letters have other heights.
        assert height == pytest.approx(new_height, rel=0.1), old
    text = Path(PAGE).read_text(encoding="utf-8")
    for path in (*kept, *pictures):
        assert 5_000 < path.stat().st_size < MAX_PICTURE_BYTES
        assert f"pictures/{path.name}" in text
