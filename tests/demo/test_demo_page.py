"""The page of `python -m embedllm demo`, clicked through in Chromium."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import torch
from chromium import LIGHT, needs_chromium, open_page
from demo_pages import Demo, open_part, running_demo
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from take_pictures import PHONE, PICTURES, take_pictures
from tiny_runs import run_script

from embedllm.config import ModelConfig, PromptConfig
from embedllm.demo.sides import load_sides
from embedllm.models.configured import choose_encoder

pytestmark = needs_chromium

MAX_PICTURE_BYTES = 300_000
# WCAG 2.2, level AA.
TEXT_CONTRAST = 4.5


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's adapter, trained for a few steps that move it far."""
    folder = tmp_path_factory.mktemp("trained")
    ended = run_script(
        "train.py",
        "debug=tiny",
        "run_name=first",
        "evaluation=none",
        "trainer.learning_rate=0.05",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder}/cache",
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "first" / "adapter"


@pytest.fixture(scope="module")
def demo(adapter: Path) -> Iterator[Demo]:
    """A demo of that adapter with small limits."""
    limits = ("max_compared=4", "max_listed=50", "max_sentence_characters=60")
    sizes = ("max_characters=3000", "max_upload_bytes=2000")
    with running_demo(f"adapter={adapter}", *limits, *sizes) as running:
        yield running


@pytest.fixture
def page(demo: Demo) -> Iterator[Page]:
    with open_page(demo.url) as opened:
        yield opened


def _numbers(table: Locator) -> list[list[str]]:
    rows = table.locator("tbody tr").all()
    return [row.locator("td").all_inner_texts() for row in rows]


def test_sentences_are_compared(page: Page, adapter: Path, tmp_path: Path) -> None:
    panel = open_part(page, "Compare")
    sentences = ["A dog runs.", "A cat sleeps.", "Prices fell."]
    panel.get_by_role("textbox").fill("\n".join(["", *sentences, " "]))
    panel.get_by_role("button", name="Compare").click()
    tables = panel.get_by_role("table")
    expect(tables.first.locator("tbody tr")).to_have_count(3)
    assert tables.locator("caption").all_inner_texts() == ["Base model", "Fine-tuned"]

    model, prompt = ModelConfig(name="x"), PromptConfig(template="{sentence}")
    choice = choose_encoder(model, prompt, adapter_path=str(adapter), overrides=[])
    sides = load_sides(choice, tmp_path, device=torch.device("cpu"))
    shown = [_numbers(table) for table in tables.all()]
    for side, numbers in zip(sides, shown, strict=True):
        vectors = side.encode(sentences)
        cosines = vectors @ vectors.T
        assert numbers == [[f"{cosine:.2f}" for cosine in row] for row in cosines.tolist()]
    # The adapter does something, and looking away from it too.
    assert shown[0] != shown[1]
    heading = tables.first.get_by_role("rowheader").first
    assert heading.inner_text().split() == ["1", "A", "dog", "runs."]


def test_a_pasted_list_is_searched(page: Page) -> None:
    panel = open_part(page, "Search")
    panel.get_by_label("In these sentences").fill("Prices fell.\nA dog runs.\nA dog runs.\nRain.")
    panel.get_by_label("Look for").fill("A dog runs.")
    page.keyboard.press("Enter")
    lists = panel.locator(".ranking")
    expect(lists.first.get_by_role("listitem")).to_have_count(3)
    for found in lists.all():
        first = found.get_by_role("listitem").first.inner_text()
        assert "A dog runs." in first
        assert "1.000" in first
    scores = [float(s) for s in lists.first.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    expect(panel.get_by_label("Look for")).to_have_value("A dog runs.")


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("list.txt", "Prices fell.\n\nA dog runs.\n", 2),
        ("list.csv", 'id,sentence\n1,"Prices, they fell."\n2,A dog runs.\n3,Rain.\n', 3),
        ("list.tsv", "sentence\tid\nPrices fell.\t1\nA dog runs.\t2\n", 2),
    ],
)
def test_an_uploaded_list_is_searched(
    name: str, content: str, lines: int, page: Page, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    panel = open_part(page, "Search")
    panel.get_by_label("Look for").fill("A dog runs.")
    panel.locator("input[type=file]").set_input_files(path)
    found = panel.locator(".ranking").first
    expect(found.get_by_role("listitem")).to_have_count(lines)
    expect(found.get_by_role("listitem").first).to_contain_text("A dog runs.")
    panel.get_by_role("button", name="Back to the text").click()
    expect(panel.get_by_label("In these sentences")).to_be_visible()


def test_the_prompt_and_the_words_show(page: Page) -> None:
    panel = open_part(page, "Look inside")
    panel.get_by_label("Sentence").fill("A dog")
    panel.get_by_role("button", name="Show").click()
    tokens = panel.locator(".parts ol")
    expect(tokens.locator("li.sentence").first).to_contain_text("A")
    assert tokens.locator("li.special").count() == 1
    assert tokens.locator("li").last.get_attribute("class") == "template read"
    assert all(re.fullmatch(r"\d+", text) for text in tokens.locator(".id").all_inner_texts())
    columns = panel.locator(".words")
    assert columns.get_by_role("heading").all_inner_texts() == ["Base model", "Fine-tuned"]
    shown = [column.locator("li").all_inner_texts() for column in columns.all()]
    assert [len(words) for words in shown] == [8, 8]
    assert shown[0] != shown[1]


def test_what_is_too_much_is_refused_with_a_message(page: Page, tmp_path: Path) -> None:
    panel = open_part(page, "Compare")
    alert = panel.get_by_role("alert")

    def try_text(text: str, message: str) -> None:
        panel.get_by_role("textbox").last.fill(text)
        panel.get_by_role("button", name=re.compile("Compare|Search")).click()
        expect(alert).to_contain_text(message)
        expect(panel.locator(".matrix, .ranking")).to_have_count(0)

    try_text("\n".join("abcde"), "5 sentences, and at most 4 are taken")
    try_text("a" * 61, "61 characters, and at most 60 are taken")
    try_text(" \n", "There is no sentence here")
    panel.get_by_role("textbox").fill("fine\nagain")
    panel.get_by_role("button", name="Compare").click()
    expect(panel.locator(".matrix")).to_have_count(2)
    expect(alert).to_have_text("")

    panel = open_part(page, "Search")
    alert = panel.get_by_role("alert")
    try_text("word " * 700, "more than 3,000 characters")
    for name, content, message in (
        ("large.txt", "many words\n" * 300, "larger than 2,000 bytes"),
        ("odd.txt", b"\xff\xfe", "not in UTF-8"),
        ("empty.csv", "", "cannot be read as a table"),
    ):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        panel.locator("input[type=file]").set_input_files(path)
        expect(alert).to_contain_text(message)


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    panel = open_part(page, "Compare")
    panel.get_by_role("textbox").fill("one\ntwo")
    page.keyboard.press("Control+Enter")
    expect(panel.locator("tbody tr")).to_have_count(4)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Compare"
    panel.get_by_role("textbox").fill("one\ntwo\nthree")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(panel.locator("tbody tr")).to_have_count(6)
    page.get_by_role("tab", name="Compare").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Search")).to_have_attribute("aria-selected", "true")
    panel = open_part(page, "Look inside")
    panel.get_by_label("Sentence").fill("fox")
    page.keyboard.press("Enter")
    expect(panel.locator(".parts li.sentence").first).to_contain_text("f")


def test_what_is_typed_is_text(page: Page) -> None:
    panel = open_part(page, "Compare")
    evil = "<img src=x onerror=alert(1)>\n\"'><script>alert(2)</script>"
    panel.get_by_role("textbox").fill(evil)
    panel.get_by_role("button", name="Compare").click()
    expect(panel.get_by_role("rowheader").first).to_contain_text("<img src=x")
    assert panel.locator("img, script").count() == 0


# Texts, without what is there for readers that hear the page or is a picture.
_CONTRASTS = f"""
() => {{
  {LIGHT}
  const found = {{}};
  for (const element of document.querySelectorAll("main *")) {{
    const texts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const text = element.value ?? texts.map((node) => node.data.trim()).join("");
    if (!text || !element.checkVisibility() || element.closest("[aria-hidden], .sr-only")) continue;
    const behind = [];
    let opacity = 100;
    for (let at = element; at; at = at.parentElement) {{
      behind.unshift(getComputedStyle(at).backgroundColor);
      opacity *= getComputedStyle(at).opacity;
    }}
    const color = getComputedStyle(element).color;
    const ink = `color-mix(in srgb, ${{color}} ${{opacity}}%, transparent)`;
    found[text] = contrast(light("white", ...behind), light("white", ...behind, ink));
  }}
  return found;
}}
"""
# Of the numbers in cells of all tints.
_TINTS = f"""
(cell) => {{
  {LIGHT}
  return [...Array(1001).keys()].map((thousandths) => {{
    cell.style.setProperty("--v", thousandths / 1000);
    const style = getComputedStyle(cell);
    return contrast(light(style.backgroundColor), light(style.color));
  }});
}}
"""
_CUT = "all => all.filter(e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight)"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (PHONE, "dark")])
def test_everything_can_be_read(width: int, scheme: str, demo: Demo) -> None:
    with open_page(demo.url, width=width, color_scheme=scheme) as page:
        for part in ("Compare", "Search", "Look inside"):
            panel = open_part(page, part)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, part
            contrasts = page.evaluate(_CONTRASTS)
            assert len(contrasts) > 10
            assert min(contrasts.values()) >= TEXT_CONTRAST, contrasts
            # One sentence is always shown whole; a list is scrolled.
            whole = panel.get_by_label(re.compile("^(Look for|Sentence)$"))
            whole = whole.or_(panel.locator(".matrix th span"))
            assert whole.count() >= 1
            assert whole.evaluate_all(f"{_CUT}.map(e => e.value ?? e.innerText)") == [], part
        panel = open_part(page, "Compare")
        contrasts = panel.locator(".matrix td[style]:not(.self)").first.evaluate(_TINTS)
        assert min(contrasts) >= TEXT_CONTRAST
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", paper)[:3])) < 120 or scheme == "light"


@pytest.mark.slow  # Makes the pictures of docs/.
def test_pictures_are_taken(demo: Demo, tmp_path: Path) -> None:
    paths = take_pictures(demo.url, tmp_path)
    assert [path.stem for path in paths] == [picture.name for picture in PICTURES]
    assert [Image.open(path).width for path in paths] == [picture.width for picture in PICTURES]
    assert all(path.stat().st_size < MAX_PICTURE_BYTES for path in paths)


def test_long_requests_are_cut_off(demo: Demo, tmp_path: Path) -> None:
    answer = httpx.post(f"{demo.url}any", content=b"x" * 20_000)
    assert (answer.status_code, "max_upload_bytes" in answer.text) == (413, True)

    def parts() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.txt"\r\n\r\n'
        yield from (b"x" * 1000 for _ in range(20))

    with open_page(demo.url) as page:
        panel = open_part(page, "Search")
        path = tmp_path / "list.txt"
        path.write_text("Rain.\n")
        with page.expect_request(re.compile("/upload/")) as request:
            panel.locator("input[type=file]").set_input_files(path)
        kind = {"content-type": "multipart/form-data; boundary=b"}
        answer = httpx.post(request.value.url, content=parts(), headers=kind)
        assert answer.status_code == 413


def test_other_names_for_this_machine_are_refused(demo: Demo) -> None:
    assert httpx.get(demo.url, headers={"host": "example.org"}).status_code == 400


def test_ctrl_c_ends_it() -> None:
    with running_demo("model=tiny") as running:
        # The page complains that its server has gone.
        with suppress(AssertionError), open_page(running.url) as page:
            open_part(page, "Compare")
            running.process.send_signal(signal.SIGINT)
            running.process.wait(60)
        ended = running.process.wait(60)
    assert ended.returncode == 130
    assert ended.stdout == f"{running.url}\n"
    assert "Traceback" not in ended.stderr
    assert ended.stderr.endswith("stopped\n")


def test_a_port_that_is_taken_is_named(demo: Demo) -> None:
    port = demo.url.rstrip("/").rpartition(":")[2]
    ended = run_script("-m", "embedllm", "demo", "model=tiny", f"port={port}")
    assert ended.returncode == 2
    assert f"port={port} cannot be listened on" in ended.stderr
    assert "port=0" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_others_are_let_in_with_a_warning() -> None:
    with running_demo("model=tiny", "host=0.0.0.0") as running:
        assert running.url.startswith("http://0.0.0.0:")
        port = running.url.rstrip("/").rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        running.process.send_signal(signal.SIGINT)
        said = running.process.wait(60).stderr
    assert "whoever reaches this address can use the page" in said
