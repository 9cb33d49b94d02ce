"""The JSON of a command has the keys that docs/terminal.md names, no more and no fewer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest.mock import MagicMock

import pytest
from documents import documented_keys
from stored_results import make_record
from test_page_commands import write_wordnet
from tiny_runs import read_json, train_tiny

from embedllm import cli
from embedllm.cli import COMMANDS
from embedllm.results import append_result

_ONE_WAY: Final = "strategy=single model.quantization=none trainer.activation_checkpointing=none"
# The calls whose records together have every key, and the file whose keys are in them too.
CALLS: Final[dict[str, tuple[list[str], str | None]]] = {
    "search": (
        [
            "model=tiny evaluation=sample candidates=candidates.csv search.rungs=[200] "
            "search.keep=[] save_as=null run_name=run"
        ],
        "outputs/run/summary.json",
    ),
    "demonstrations": (
        ["evaluation=none wordnet_dir=dict definitions.parts_of_speech=[noun] run_name=run"],
        "outputs/run/summary.json",
    ),
    "layers": (["model=tiny evaluation=sample run_name=run"], None),
    "encode": (["model=tiny input=sentences.txt output=vectors"], None),
    "profile": (
        [
            "model=tiny trainer.accelerator=cpu profile.num_steps=1 profile.output=file.json "
            "profile.trace=trace.json"
        ],
        "file.json",
    ),
    "plan": ([f"model=tiny {_ONE_WAY} plan.output=file.json"], "file.json"),
    "report": (["html=null output=page.md", "sweep=seeds"], None),
    "export": (
        [
            "adapter=outputs/seeds/run output=merged format=merged",
            "adapter=outputs/seeds/run output=merged format=merged push=a/b push_dry_run=true",
            "adapter=outputs/seeds/run output=merged format=merged push=a/b",
        ],
        None,
    ),
    "demo": (["model=tiny port=0"], None),
}
# Parts of a file that the record leaves out.
ORIGIN: Final = {"config", "command", "finished", "hardware", "versions", "git_revision"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, of which there is one."""
    folder = tmp_path_factory.mktemp("runs") / "seeds"
    train_tiny(folder, "evaluation=none", "trainer.max_steps=2")
    (folder / "run" / ".hydra").mkdir()
    return folder


@pytest.fixture
def folder(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_process: None
) -> Path:
    """Where the calls find what they name; what would wait, or leave this machine, is replaced."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "seeds").symlink_to(sweep)
    (tmp_path / "candidates.csv").write_text("sentence,word\nA jockey rides.,Equestrian\n")
    (tmp_path / "sentences.txt").write_text("It is raining.\n")
    write_wordnet(tmp_path / "dict")
    append_result(tmp_path / "results", make_record())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDLLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("embedllm.export.command.push_folder", lambda *_: "https://there")
    monkeypatch.setattr("embedllm.demo.server.serve", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "nicegui", ModuleType("nicegui"))
    page = ModuleType("embedllm.demo.page")
    monkeypatch.setattr(page, "DemoPage", MagicMock(), raising=False)
    monkeypatch.setitem(sys.modules, "embedllm.demo.page", page)
    return tmp_path


def _record(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    cli.main([name, *words.split(), "console.format=json", "console.quiet=true"])
    [line] = capsys.readouterr().out.splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


@pytest.mark.parametrize("name", CALLS)
def test_the_keys_are_the_documented_ones(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, file = CALLS[name]
    records = [_record(name, words, capsys) for words in calls]
    in_file = set(read_json(folder / file)) if file else set()
    assert all(in_file - ORIGIN <= record.keys() for record in records)
    told = documented_keys(name)
    assert set().union(*records) - (in_file - told) == told


def test_no_command_is_left_out() -> None:
    # Those of training, evaluation and the store are in test_terminal.py.
    assert {*CALLS, "train", "evaluate", "results"} == set(COMMANDS)
