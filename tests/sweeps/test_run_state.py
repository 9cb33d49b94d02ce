"""Why a run ended, and how far it is, by its files."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_runs import compose_train

from embedllm.errors import ConfigError, DataError, PeerError
from embedllm.files import write_json
from embedllm.run_state import (
    failures_since,
    find_runs,
    note_lost,
    read_run_state,
    recorded_failure,
)
from embedllm.training.run_folder import RunFolder


def _start(folder: Path) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=1\n- +a.b='x=y'\n- ~c\n")
    return folder


def test_the_reason_is_kept_until_the_next_start(tmp_path: Path) -> None:
    run = _start(tmp_path / "run")
    with pytest.raises(DataError), recorded_failure(run):
        raise DataError("no such file")
    state = read_run_state(run)
    assert (state.status, state.overrides) == ("failed", {"seed": "1", "a.b": "'x=y'"})
    assert state.failure is not None
    assert (state.failure.message, state.failure.exit_code) == ("no such file", 2)
    with recorded_failure(run):
        assert read_run_state(run).status == "stopped"
    assert not (run / "failure.json").exists()


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (SystemExit(7), "a process ended with exit code 7 and without a message", 7),
    ],
)
def test_every_end_has_a_message(
    error: BaseException, message: str, code: int, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), recorded_failure(_start(tmp_path / "run")):
        raise error
    failure = read_run_state(tmp_path / "run").failure
    assert failure is not None
    assert (failure.message, failure.exit_code) == (message, code)


def test_the_cause_is_kept_not_its_echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _start(tmp_path / "run")
    with pytest.raises(SystemExit), recorded_failure(run):
        with pytest.raises(PeerError), recorded_failure(run):
            monkeypatch.setenv("RANK", "1")
            with pytest.raises(ConfigError), recorded_failure(run):
                raise ConfigError("what is wrong")
            raise PeerError("another process ended")
        raise SystemExit(3)
    failure = read_run_state(run).failure
    assert failure is not None
    assert failure.message == "what is wrong"


def test_a_good_end_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), recorded_failure(_start(tmp_path / "run")):
        raise SystemExit(0)
    assert not (tmp_path / "run" / "failure.json").exists()


def test_a_run_in_use_is_running(tmp_path: Path) -> None:
    run = _start(tmp_path / "run")
    lock = FileLock(run / ".lock")
    with lock:
        code = f"from embedllm.run_state import read_run_state; import pathlib;\
print(read_run_state(pathlib.Path({str(run)!r})).status)"
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert other.stdout.strip() == "running"
        # A second start, which is refused, says nothing about the first.
        code = f"from embedllm.run_state import *; import pathlib\n\
with recorded_failure(pathlib.Path({str(run)!r})): raise SystemExit(2)"
        second = subprocess.run([sys.executable, "-c", code], check=False)
        assert second.returncode == 2
        assert not (run / "failure.json").exists()
    assert read_run_state(run).status == "stopped"


def test_a_look_does_not_refuse_a_start(tmp_path: Path) -> None:
    config = compose_train("debug=tiny", "run_name=a")
    look = FileLock(tmp_path / ".lock", thread_local=False)
    look.acquire()
    # As long as a report on a slow file system.
    timer = threading.Timer(0.3, look.release)
    timer.start()
    with RunFolder(tmp_path).claimed(config, "0"):
        assert (tmp_path / "run.json").is_file()
    timer.join()


def test_a_run_that_could_not_say_it_itself(tmp_path: Path) -> None:
    start = datetime.now(UTC)
    noted = note_lost(tmp_path / "run", "killed", overrides=["seed=1", "a='x: y'"], start=start)
    state = read_run_state(tmp_path / "run")
    assert (state.failure, state.overrides) == (noted, {"seed": "1", "a": "'x: y'"})
    assert (noted.message, noted.exit_code) == ("killed", 3)
    assert failures_since(tmp_path, start) == [(tmp_path / "run", noted)]
    # What the run said since the start counts more, what it said before does not.
    later = start + timedelta(seconds=100)
    for since, message in ((start, "killed"), (later, "again")):
        again = note_lost(tmp_path / "run", "again", overrides=[], start=since)
        assert again.message == message
    assert read_run_state(tmp_path / "run").overrides == state.overrides


def test_failures_of_this_call_alone(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for name, age in (("old", 100), ("new", 0)):
        time = (now - timedelta(seconds=age)).isoformat(timespec="seconds")
        values = {"error": "E", "message": name, "exit_code": 1, "finished": time}
        write_json(_start(tmp_path / name) / "failure.json", values)
    (tmp_path / ".hidden" / ".hydra").mkdir(parents=True)
    assert [run.name for run in find_runs(tmp_path)] == ["new", "old"]
    assert [run.name for run, _ in failures_since(tmp_path, now)] == ["new"]
