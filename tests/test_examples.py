"""examples/: the scripts do what their pages show; with the default model in slow tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from documents import ROOT, documented
from tiny_runs import script_environment

CLUSTER = "python examples/embed_and_cluster.py examples/texts --clusters 4"
FINETUNE = "python examples/finetune_on_pairs.py examples/pairs.csv"
TINY = ("--model", "tiny")


def _ended(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the pages in a folder; paths in it are those of the repository."""
    words = [str(ROOT / w) if w.startswith("examples/") else w for w in command.split()[1:]]
    path = script_environment().get("PYTHONPATH")
    environment = script_environment(PYTHONPATH=f"{ROOT}:{path}" if path else str(ROOT))
    return subprocess.run(
        [sys.executable, *words, *more],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
    )


def _run(command: list[str], folder: Path, *more: str) -> str:
    """Runs a documented command that has to work."""
    ended = _ended(" ".join(command), folder, *more)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def _members(printed: str) -> list[Counter[str]]:
    """Returns how many texts of each topic each cluster shows."""
    parts = re.split(r"^cluster \d+: ", printed, flags=re.MULTILINE)[1:]
    return [Counter(re.findall(r"^  (\w+)-\d\.txt", part, re.MULTILINE)) for part in parts]


def test_clusters_are_printed_with_central_texts(tmp_path: Path) -> None:
    command = documented(CLUSTER, page="docs/examples/cluster.md")
    printed = _run(command, tmp_path, *TINY, "--show", "24")
    groups = _members(printed)
    assert len(groups) == 4
    assert sum(groups, Counter()) == dict.fromkeys(("garden", "kitchen", "money", "space"), 6)


MISTAKES = {
    "a folder with one text": ("embed_and_cluster.py folder", "has 1 texts"),
    "no folder": ("embed_and_cluster.py nowhere", "nowhere has 0 texts"),
    "no such model": ("embed_and_cluster.py examples/texts --model smollm3", "smollm3"),
    "no file": ("finetune_on_pairs.py nowhere.csv", "No such file or directory: 'nowhere.csv'"),
    "other columns": ("finetune_on_pairs.py other.csv", "columns anchor, positive"),
    "another encoding": ("finetune_on_pairs.py latin.csv", "'utf-8' codec can't decode"),
    "a key that is none": ("finetune_on_pairs.py examples/pairs.csv --model tiny trainer.x=1", "x"),
}


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(name, marks=pytest.mark.slow) if "encoding" in name or "key" in name else name
        for name in MISTAKES
    ],
)
def test_mistakes_are_said_without_traceback(mistake: str, tmp_path: Path) -> None:
    command, said = MISTAKES[mistake]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one.txt").write_text("A text.", encoding="utf-8")
    (tmp_path / "other.csv").write_text("question,answer\n" + "a,b\n" * 20, encoding="utf-8")
    (tmp_path / "latin.csv").write_text("anchor,positive\n" + "é,b\n" * 20, encoding="latin-1")
    ended = _ended(f"python examples/{command}", tmp_path)
    assert ended.returncode in (1, 2)
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_pairs_are_held_out_trained_and_scored(tmp_path: Path) -> None:
    command = documented(FINETUNE, page="docs/examples/finetune.md")
    short = ("trainer.max_steps=2", "trainer.accelerator=cpu")
    printed = _run(command, tmp_path, *TINY, *short)
    assert "held-out pairs: 48" in printed
    assert len(re.findall(r"positive found first, (?:before|after): +\d+%", printed)) == 2
    folder = tmp_path / "outputs" / "pairs"
    assert (folder / "adapter" / "embedllm.json").is_file()
    trained = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
    everything = (ROOT / "examples" / "pairs.csv").read_text(encoding="utf-8").splitlines()
    assert len(trained) - 1 == 240 - 48
    assert set(trained) < set(everything)


@pytest.mark.slow
def test_the_default_model_finds_the_topics(tmp_path: Path) -> None:
    groups = _members(_run(documented(CLUSTER, page="docs/examples/cluster.md"), tmp_path))
    # Each group shows three texts of one topic, and every topic has a group.
    assert sorted(topic for group in groups for topic in group) == sorted(
        ("garden", "kitchen", "money", "space")
    )


@pytest.mark.slow
@pytest.mark.timeout(2 * 1100)
def test_the_default_model_learns_the_pairs(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "pairs.csv", tmp_path)
    printed = _run(documented(FINETUNE, page="docs/examples/finetune.md"), tmp_path)
    before, after = map(int, re.findall(r"first, (?:before|after): +(\d+)%", printed))
    assert after >= before + 10
