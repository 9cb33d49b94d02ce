"""What train.py says about run folders that it must not go on with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from failing_scripts import HEADER, ROWS, Script, write_file
from tiny_runs import train_tiny


def test_a_run_folder_of_another_configuration(begun: Path, fails: Script) -> None:
    changes = ["trainer.learning_rate=1e-3", "adapter.options.r=8"]
    message = fails("train.py", "evaluation=none", *changes)
    assert f"{begun} holds a run with another configuration" in message
    assert "trainer.learning_rate: was 0.0005, is 0.001" in message
    assert "adapter.options.r: was 64, is 8" in message
    assert "temperature" not in message
    assert "run_name" in message


def test_a_run_folder_of_other_data(tmp_path: Path, fails: Script) -> None:
    path = write_file(tmp_path, HEADER + ROWS)
    data = ["data=nli", f"data.path={path}", "data.global_batch_size=8"]
    train_tiny(tmp_path / "out", "evaluation=none", *data)
    write_file(tmp_path, HEADER + ROWS.replace("anchor 0", "anchor x"))
    message = fails("train.py", "evaluation=none", *data)
    assert "data_sha256: was " in message


def test_resume_never(begun: Path, fails: Script) -> None:
    message = fails("train.py", "evaluation=none", "resume=never")
    assert f"{begun} already holds a run and resume=never; choose another run_name" in message


def test_truncated_checkpoints(begun: Path, fails: Script) -> None:
    for path in (begun / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    message = fails("train.py", "evaluation=none")
    assert f"all checkpoints in {begun / 'checkpoints'} are damaged" in message
    assert "cannot be read" in message
    assert "another run_name" in message


@pytest.mark.parametrize("name", ["run.json", "results/before.json", "results/after.json"])
def test_a_damaged_record_of_a_run(
    name: str, scored_run: Path, tmp_path: Path, fails: Script
) -> None:
    shutil.copytree(scored_run, tmp_path / "out")
    path = tmp_path / "out" / "run" / name
    path.write_text("{")
    assert f"{path} is damaged" in fails("train.py")


def test_a_run_folder_in_use(begun: Path, fails: Script) -> None:
    code = (
        "import sys, filelock\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(begun / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        message = fails("train.py", "evaluation=none")
        holder.communicate("")
    assert f"{begun} is in use by another run; wait for it or choose another run_name" in message


# --- Whole processes ----------------------------------------------------------------------------
