"""examples/: the scripts do what their pages show; with the default model in slow tests."""

from __future__ import annotations

import logging
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from documents import ROOT, documented
from tiny_runs import restored_logging, script_environment

CLUSTER = "python examples/embed_and_cluster.py examples/texts --clusters 4"
FINETUNE = "python examples/finetune_on_pairs.py examples/pairs.csv"
TINY = ("--model", "tiny")


def _environment() -> dict[str, str]:
    path = script_environment().get("PYTHONPATH")
    return script_environment(PYTHONPATH=f"{ROOT}:{path}" if path else str(ROOT))


def _run(command: list[str], folder: Path) -> str:
    """Runs a documented command in a folder; paths in it are those of the repository."""
    words = [str(ROOT / w) if w.startswith("examples/") else w for w in command[1:]]
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def _members(printed: str) -> list[Counter[str]]:
    """Returns how many texts of each topic each cluster shows."""
    parts = re.split(r"^cluster \d+: ", printed, flags=re.MULTILINE)[1:]
    return [Counter(re.findall(r"^  (\w+)-\d\.txt", part, re.MULTILINE)) for part in parts]


def _call(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Runs an example in this process and returns what it left with: a code or a message."""
    script, *words = [str(ROOT / w) if w.startswith("examples/") else w for w in command.split()]
    monkeypatch.chdir(folder)
    # For the training, which is a process of its own.
    for name, value in _environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with restored_logging():
        # What another test left would write to a stream that is closed by now.
        logging.getLogger().handlers.clear()
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            return ended.code
    return 0


def test_clusters_are_printed_with_central_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, *words = documented(CLUSTER, page="docs/examples/cluster.md")
    assert _call(" ".join([*words, *TINY, "--show 24"]), tmp_path, monkeypatch) == 0
    groups = _members(capsys.readouterr().out)
    assert len(groups) == 4
    assert sum(groups, Counter()) == dict.fromkeys(("garden", "kitchen", "money", "space"), 6)


def _write_texts(folder: Path, *texts: str) -> None:
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")


CLUSTER_MISTAKES = {
    "one": "one has 1 texts (*.txt), 1 of them different; that is too few",
    "same": "same has 4 texts (*.txt), 1 of them different; that is too few",
    "nowhere": "nowhere has 0 texts",
    "examples/texts --clusters 0": "--clusters 0 must be at least 1",
    "examples/texts --clusters -1": "--clusters -1 must be at least 1",
    "examples/texts --clusters 25": "has 24 texts",
    "examples/texts --model smollm3": "smollm3",
}


@pytest.mark.parametrize("arguments", CLUSTER_MISTAKES)
def test_mistakes_in_clustering_are_one_message(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_texts(tmp_path / "one", "A text.")
    _write_texts(tmp_path / "same", *["A text."] * 4)
    said = _call(f"examples/embed_and_cluster.py {arguments}", tmp_path, monkeypatch)
    assert isinstance(said, str)
    assert said.startswith("error: ")
    assert CLUSTER_MISTAKES[arguments] in said


@pytest.mark.parametrize(
    ("texts", "groups"),
    [
        (["A dog.", "A dog.", "Rain falls.", "Banks lend money."], {2, 3}),
        # Cut where they begin to differ.
        ([f"{'A dog runs. ' * 200}{n}" for n in range(4)], {1}),
    ],
)
def test_equal_texts_are_clustered(
    texts: list[str],
    groups: set[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _write_texts(tmp_path / "folder", *texts)
    command = "examples/embed_and_cluster.py folder --model tiny"
    assert _call(command, tmp_path, monkeypatch) == 0
    assert len(re.findall(r"^cluster \d+: ", capsys.readouterr().out, re.MULTILINE)) in groups
    assert _call(f"{command} --clusters 1", tmp_path, monkeypatch) == 0
    assert "cluster 1: 4 texts" in capsys.readouterr().out


PAIRS_MISTAKES = {
    "nowhere.csv": "No such file or directory: 'nowhere.csv'",
    "other.csv": "columns anchor, positive",
    "latin.csv": "'utf-8' codec can't decode",
}


@pytest.mark.parametrize("file", PAIRS_MISTAKES)
def test_mistakes_in_pairs_are_one_message(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.csv").write_text("question,answer\n" + "a,b\n" * 20, encoding="utf-8")
    (tmp_path / "latin.csv").write_text("anchor,positive\n" + "é,b\n" * 20, encoding="latin-1")
    said = _call(f"examples/finetune_on_pairs.py {file}", tmp_path, monkeypatch)
    assert isinstance(said, str)
    assert said.startswith("error: ")
    assert PAIRS_MISTAKES[file] in said
    assert not (tmp_path / "outputs").exists()


def test_a_key_that_is_none_is_said_by_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # A name that has to be quoted.
    rows = "".join(f"a {n},b {n}\n" for n in range(20))
    (tmp_path / "my(1).csv").write_text(f"anchor,positive\n{rows}", encoding="utf-8")
    command = "examples/finetune_on_pairs.py my(1).csv --model tiny trainer.x=1"
    assert _call(command, tmp_path, monkeypatch) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "trainer.x" in said
    assert (tmp_path / "outputs" / "my(1)" / "train.csv").is_file()


def test_a_run_on_other_pairs_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"a {n},b {n}\n" for n in range(20))
    (tmp_path / "my.csv").write_text(f"anchor,positive\n{rows}", encoding="utf-8")
    run = tmp_path / "outputs" / "my"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for content in (None, "anchor,positive\nof,old\n"):
        if content is not None:
            (run / "train.csv").write_text(content)
        said = _call("examples/finetune_on_pairs.py my.csv", tmp_path, monkeypatch)
        assert said == (
            "error: outputs/my is a run on other pairs; name another folder with --output"
        )
    assert (run / "train.csv").read_text() == content


def test_pairs_are_held_out_trained_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, *words = documented(FINETUNE, page="docs/examples/finetune.md")
    short = ("trainer.max_steps=2", "trainer.accelerator=cpu")
    assert _call(" ".join([*words, *TINY, *short]), tmp_path, monkeypatch) == 0
    printed = capsys.readouterr().out
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
