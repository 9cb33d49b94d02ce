"""docs/demo.md: its commands run, its keys and limits are the real ones."""

from __future__ import annotations

import re
import signal
from dataclasses import fields

import pytest
from demo_pages import running_demo
from documents import ROOT, documented
from PIL import Image
from take_pictures import PICTURES
from tiny_runs import run_script

from embedllm.config import DemoConfig

PAGE = "docs/demo.md"
MAX_PICTURE_BYTES = 300_000


@pytest.mark.parametrize(
    "command",
    [
        "python -m embedllm demo model=opt-125m port=0 max_listed=500",
        "python -m embedllm demo host=0.0.0.0 port=8090",
    ],
)
def test_its_commands_run(command: str) -> None:
    words = documented(command, page=PAGE)
    keys = [word for word in words[4:] if not word.startswith(("model=", "port="))]
    with running_demo(*keys, "model=tiny") as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60).returncode == 130


def test_an_adapter_that_is_not_there_is_one_message() -> None:
    command = "python -m embedllm demo adapter=outputs/first/adapter"
    ended = run_script(*documented(command, page=PAGE)[1:-1], "adapter=/nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: adapter_path=/nowhere is no adapter folder")


def test_its_table_names_every_key_with_its_default() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", text, re.MULTILINE)
    keys = {k: v for names, values in rows for k, v in zip(*_split(names, values), strict=False)}
    defaults = {f.name: f.default for f in fields(DemoConfig)}
    shown = {name: value for name, value in defaults.items() if isinstance(value, int | str)}
    assert keys.keys() >= {n for n in shown if n not in ("model", "prompt", "paths")} - {""}
    for name in keys.keys() & shown.keys() - {"model", "prompt"}:
        assert keys[name].replace(",", "") == str(shown[name]), name


def _split(names: str, values: str) -> tuple[list[str], list[str]]:
    found = re.findall(r"`(\w+)`", names)
    parts = values.replace("`", "").split(", ")
    return found, parts if len(found) == len(parts) else [values.replace("`", "")] * len(found)


def test_its_pictures_are_those_that_are_taken_and_small() -> None:
    kept = sorted((ROOT / "docs/pictures").glob("demo-*.png"))
    widths = {path.stem: Image.open(path).width for path in kept}
    assert widths == {picture.name: picture.width for picture in PICTURES}
    assert all(path.stat().st_size < MAX_PICTURE_BYTES for path in kept)
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    shown = re.findall(r"\((pictures/[\w-]+\.png)\)", text)
    assert len(shown) >= 3
    assert {ROOT / "docs" / name for name in shown} <= set(kept)
