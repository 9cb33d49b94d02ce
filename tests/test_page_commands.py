"""Commands and Python of pages, run as they stand there, with tiny models and files to read.

Each page's commands run in its order, in one folder, in this process; what is replaced is the model
(`model=tiny`), the amount of work, and data that is not shipped.
"""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documented_by import PAGE_COMMANDS, RUN_PAGES, SLOW_PAGES, find_test
from documents import ROOT, shown_commands, snippets
from stored_results import make_record
from tiny_runs import script_environment, train_tiny

from embedllm import cli
from embedllm.results import append_result

_SHORT: Final = {
    "train": ("trainer.max_steps=2", "trainer.accelerator=cpu", "evaluation=none"),
    "search": ("evaluation=sample", "search.rungs=[200]", "search.keep=[]", "save_as=null"),
    "demonstrations": ("evaluation=none", "wordnet_dir=dict", "definitions.parts_of_speech=[noun]"),
}
_SENTENCES: Final = ("A man is riding a horse.", "It is raining.", "The bank raised its rates.")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train_tiny(folder, "evaluation=none", "trainer.max_steps=2")
    return folder / "run"


@pytest.fixture
def folder(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, entry_process: None
) -> Path:
    """A folder with what the pages speak of."""
    for name in ("first", "pairs"):
        shutil.copytree(adapter, tmp_path / "outputs" / name)
    rows = [(f"{a} Number {n}.", f"{a} It is number {n}.") for n, a in enumerate(_SENTENCES * 6)]
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("anchor", "positive"), *rows])
    shutil.copy(tmp_path / "pairs.csv", tmp_path / "my.csv")
    (tmp_path / "sentences.txt").write_text("\n".join(_SENTENCES) + "\n", encoding="utf-8")
    for name in ("a", "b"):
        lines = [json.dumps({"id": f"{name}{n}", "body": s}) for n, s in enumerate(_SENTENCES)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": list(_SENTENCES)}), tmp_path / "data" / "one.parquet")
    lines = ["sentence,word", "A jockey rides.,Equestrian", "Water falls.,Rain"]
    (tmp_path / "candidates.csv").write_text("\n".join(lines), encoding="utf-8")
    write_wordnet(tmp_path / "dict")
    append_result(tmp_path / "results", make_record())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDLLM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def write_wordnet(folder: Path) -> None:
    """Writes two nouns in the format of WordNet's files."""
    folder.mkdir()
    nouns = {"spoon": "a bowl on a handle for soup", "ladder": "steps between two poles"}
    lines = [f"0000000{n} 05 n 01 {w} 0 000 | {d}  \n" for n, (w, d) in enumerate(nouns.items())]
    (folder / "data.noun").write_text("".join(lines), encoding="utf-8")


def _tiny(name: str, words: list[str]) -> list[str]:
    """Returns the overrides of a command for a tiny model, little work and shipped data."""
    words = [re.sub(r"^model=(?!tiny$)[\w.-]+$", "model=tiny", word) for word in words]
    words = [re.sub(r"^evaluation=[\w-]+$", "evaluation=sample", word) for word in words]
    words = [re.sub(r"^prompt=searched/.*", "prompt=prompteol", word) for word in words]
    is_chosen = any(w.startswith(("model=", "debug=", "adapter_path=")) for w in words)
    if name == "search" and not any(w.startswith("candidates=") for w in words):
        words.append("candidates=candidates.csv")
    if name in ("train", "evaluate", "encode", "search") and not is_chosen:
        words.append("debug=tiny" if name == "train" else "model=tiny")
    return [*words, *_SHORT.get(name, ())]


def _run_example(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script of examples/, and what it starts, in this process."""
    script, *words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    words += [] if "--model" in words else ["--model", "tiny"]
    words += _SHORT["train"] if "finetune" in script else ()

    def call(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        cli.main(command[command.index("embedllm") + 1 :])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", call)
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(script, run_name="__main__")


def _run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs `python train.py ...`, `python -m embedllm ...`, torchrun of the latter, an example."""
    if command.startswith("python examples/"):
        _run_example(shlex.split(command)[1:], monkeypatch)
        return
    match = re.match(
        r"(torchrun --nproc-per-node \d )?(?:python )?(?:(\w+)\.py|-m embedllm) ?", command
    )
    assert match is not None, command
    words = shlex.split(command[match.end() :])
    name = match[2] or words.pop(0)
    if name.startswith("-"):
        cli.main([name])
        return
    words = _tiny(name, words)
    if match[1]:
        launcher = ["-m", "torch.distributed.run", *match[1].split()[1:], "-m", "embedllm", name]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = script_environment(PYTHONPATH=path)
        subprocess.run([sys.executable, *launcher, *words], env=environment, check=True)
        return
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    cli.start(name)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if p in SLOW_PAGES else []) for p in RUN_PAGES],
)
def test_the_commands_of_a_page(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in shown_commands(page):
        if find_test(page, command) == PAGE_COMMANDS:
            for name, begins in (("first", "run_name=first"), ("pairs", "examples/pairs.csv")):
                if begins in command:
                    # A run that is there goes on instead of beginning.
                    shutil.rmtree(folder / "outputs" / name)
            _run(command, monkeypatch)
            capsys.readouterr()


@pytest.mark.parametrize("page", [page for page in RUN_PAGES if snippets(page)])
def test_the_snippets_of_a_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "read_shards" in "".join(snippets(page)):
        _run("python -m embedllm encode input=sentences.txt output=outputs/vectors", monkeypatch)
    for snippet in snippets(page):
        names: dict[str, Any] = {}
        exec(compile(snippet, page, "exec"), names)
