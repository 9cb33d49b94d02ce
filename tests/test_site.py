"""The pages as a site: they build without a warning, from the code, and ask no other machine."""

from __future__ import annotations

import dataclasses
import html
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import needs_chromium, open_page
from documents import documented

from embedllm import config as classes
from embedllm.config import TrainConfig
from embedllm.entry import CONF_DIR

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    # With --strict a warning is an error.
    assert built.returncode == 0, built.stderr
    return folder


def _text(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_is_in_the_navigation(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    pages = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 15
    for page in pages:
        target = "." if page.name == "index.md" else f"{page.with_suffix('').as_posix()}/"
        assert f'href="{target}"' in index, page
    assert not (site / "_hooks").exists()


def test_every_key_of_the_configuration_is_described(site: Path) -> None:
    page = (site / "configuration" / "index.html").read_text(encoding="utf-8")
    keys = set(re.findall(r'<span id="([\w.\[\]]+)">', page))
    names = {key.rpartition(".")[2] for key in keys}
    roots = [getattr(classes, name) for name in classes.__all__ if name.endswith("Config")]
    assert len(roots) > 20
    for schema in roots:
        for field in dataclasses.fields(schema):
            is_group = schema.__name__ in field.type or "Config" in str(field.type)
            assert is_group or field.name in names, f"{schema.__name__}.{field.name}"
    rows = re.findall(r"<tr>\s*<td><span id=\"([^\"]+)\">.*?</tr>", page, re.DOTALL)
    assert len(rows) == len(re.findall('<span id="', page))
    empty = re.findall(r'<span id="([^"]+)">(?:(?!</tr>).)*<td></td>\s*</tr>', page, re.DOTALL)
    assert not empty, "keys without a description"


def test_defaults_and_allowed_values_are_those_of_the_code(site: Path) -> None:
    page = (site / "configuration" / "index.html").read_text(encoding="utf-8")

    def row(key: str) -> str:
        found = re.search(rf'<span id="{re.escape(key)}">(.*?)</tr>', page, re.DOTALL)
        assert found is not None, key
        return html.unescape(re.sub(r"<[^>]+>", " ", found[1]))

    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    assert str(fields["seed"].default) in row("seed")
    assert all(value in row("trainer.on_nan") for value in ("stop", "skip", "Allowed"))
    assert all(value in row("model.quantization") for value in ("none", "nf4", "int8", "Allowed"))
    # What conf/ says wins over the class: the default model is an option of conf/model.
    assert "SmolLM2" in row("model.name")
    for option in ("lora", "dora", "ia3"):
        assert f"adapter={option}" in page
    listed = re.findall(r"<li><code>adapter=(\w+)</code>", page)
    assert sorted(listed) == sorted(p.stem for p in (CONF_DIR / "adapter").glob("*.yaml"))


def test_the_python_reference_has_the_signatures(site: Path) -> None:
    text = _text(site / "api" / "index.html")
    for words in ("SentenceEncoder", "tokens_per_batch", "read_shards", "ConfigError"):
        assert words in text


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@needs_chromium
@pytest.mark.parametrize("page", ["", "concepts/", "configuration/", "api/"])
def test_pages_work_in_a_browser_without_other_machines(address: str, page: str) -> None:
    with open_page(f"{address}/{page}", width=390, height=800) as opened:
        opened.wait_for_load_state("networkidle")
        broken = "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth).length"
        assert opened.evaluate(broken) == 0
        # Readable on a phone: wide tables scroll inside, the page itself does not.
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390


@needs_chromium
def test_search_finds_a_key(address: str) -> None:
    with open_page(f"{address}/") as opened:
        box = opened.locator("input.md-search__input")
        box.click()
        box.press_sequentially("on_nan")
        opened.locator(".md-search-result__link").first.wait_for(timeout=60_000)
        found = opened.locator(".md-search-result__link").first.get_attribute("href")
    assert found is not None
    assert "configuration" in found or "troubleshooting" in found or "operations" in found


def test_pictures_are_those_of_the_records(tmp_path: Path) -> None:
    _, script = documented("python benchmarks/draw_concepts.py", page="docs/concepts.md")
    subprocess.run([sys.executable, ROOT / script, "--output", str(tmp_path)], check=True)
    made = sorted(tmp_path.glob("*.svg"))
    assert len(made) == 3
    for picture in made:
        kept = ROOT / "docs" / "pictures" / picture.name
        assert _numbers(kept) == _numbers(picture), picture.name


def _numbers(picture: Path) -> list[str]:
    """Returns what a picture says; shapes of letters may differ with the library."""
    return re.findall(r"<!-- (.*?) -->", picture.read_text(encoding="utf-8"))
