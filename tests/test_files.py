"""Files are whole or absent, and a disk that refuses is one message."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from limits import largest_file
from safetensors import SafetensorError
from tiny_runs import RunHere

from embedllm import files
from embedllm.errors import CheckpointError
from embedllm.files import new_folder, sha256_of, write_atomically, write_json


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_written_files_have_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_failed_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=r"a\.bin cannot be written.*paths\.output_dir"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "a"):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(SafetensorError), new_folder(tmp_path / "a"):
        raise SafetensorError("header too large")


def test_json_refuses_values_that_json_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"score": 1.5, "text": "Zürich"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"score": 1.5, "text": "Zürich"}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"score": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["score"] == 1.5


def test_folder_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    with new_folder(target) as work:
        (work / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert target.stat().st_mode & 0o777 == 0o755

    with pytest.raises(RuntimeError), new_folder(target) as work:
        (work / "a").write_text("2")
        raise RuntimeError("died")
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_folder_replaces_an_existing_one(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    for content in ("1", "2"):
        with new_folder(target) as work:
            (work / content).write_text(content)
    assert [p.name for p in target.iterdir()] == ["2"]


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(path) == expected


def test_run_on_a_disk_that_fills_up_is_one_message(run_here: RunHere, tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: tensors no longer fit, small files do."""
    folders = (f"paths.output_dir={tmp_path}", f"paths.results_dir={tmp_path}/store")
    with largest_file(100_000):
        code, said = run_here(
            "train.py", "debug=tiny", "run_name=a", "trainer.accelerator=cpu", *folders
        )
    assert code == 2
    assert said.count("error: ") == 1
    assert "cannot be written" in said
    assert "paths.output_dir" in said
    assert "Traceback" not in said
    assert (tmp_path / "a" / "results" / "before.json").exists()
    assert not list((tmp_path / "a").rglob("*.ckpt"))
