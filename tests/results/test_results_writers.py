"""The results store: many writers at once, writers that are killed, and a disk that is full."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stored_results
from stored_results import make_record
from tiny_runs import script_environment

from embedllm import results as store
from embedllm.results import append_result, read_results

_WRITER = """
import sys, time
from pathlib import Path
from stored_results import make_record
from embedllm import results

folder, start, writer, count = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
if not count:
    count = 10**9
# All files of all writers want the same name first.
results._HASH_DIGITS = (0, 64)
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
for number in range(count):
    timing = {"number": number, "text": "x" * 20_000}
    results.append_result(folder, make_record(seed=writer, timing=timing))
"""
_NUM_WRITERS = 5
_NUM_RECORDS = 12
_SECONDS = 300.0
_TESTS = str(Path(stored_results.__file__).parent)


def _start_writer(*arguments: object, code: str = _WRITER) -> subprocess.Popen[str]:
    paths = [_TESTS, str(Path(store.__file__).parent.parent)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=script_environment(PYTHONPATH=os.pathsep.join(paths)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until_ready(writer: subprocess.Popen[str]) -> None:
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"


def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    folder, start = tmp_path / "store", tmp_path / "start"
    writers = [_start_writer(folder, start, i, _NUM_RECORDS) for i in range(_NUM_WRITERS)]
    for writer in writers:
        _wait_until_ready(writer)
    start.touch()
    for writer in writers:
        _, errors = writer.communicate(timeout=_SECONDS)
        assert (writer.returncode, errors) == (0, "")
    found = [(r.record["seed"], r.record["timing"]["number"]) for r in read_results(folder)]
    expected = [(i, number) for i in range(_NUM_WRITERS) for number in range(_NUM_RECORDS)]
    assert sorted(found) == expected
    assert len(list(folder.iterdir())) == len(expected)


def test_processes_with_the_same_record_make_one_file(tmp_path: Path) -> None:
    folder, start = tmp_path / "store", tmp_path / "start"
    writers = [_start_writer(folder, start, 0, 1) for _ in range(3)]
    for writer in writers:
        _wait_until_ready(writer)
    start.touch()
    assert [writer.wait(timeout=_SECONDS) for writer in writers] == [0, 0, 0]
    for writer in writers:
        writer.communicate()
    assert len(list(folder.iterdir())) == 1


def test_a_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    folder, start = tmp_path / "store", tmp_path / "start"
    writer = _start_writer(folder, start, 0, 0)
    _wait_until_ready(writer)
    start.touch()
    deadline = time.monotonic() + _SECONDS
    while not folder.exists() or len(list(folder.glob("*.json"))) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    writer.kill()
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    found = read_results(folder, strict=True)
    numbers = sorted(result.record["timing"]["number"] for result in found)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 20


_KILLED_AT = """
import os, signal, sys
from pathlib import Path
from stored_results import make_record
from embedllm import results

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def refuse(self, target):
    raise OSError(1, "Operation not permitted")

if sys.argv[2] == "content":
    results.os.fsync = die
elif sys.argv[2] == "link":
    Path.hardlink_to = die
else:
    Path.hardlink_to, Path.replace = refuse, die
results.append_result(Path(sys.argv[1]), make_record(seed=1))
"""


@pytest.mark.parametrize(("moment", "num_left_out"), [("content", 0), ("link", 0), ("claim", 1)])
def test_a_writer_killed_at_the_worst_moment(
    moment: str, num_left_out: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append_result(tmp_path, make_record())
    writer = _start_writer(tmp_path, moment, code=_KILLED_AT)
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    assert [result.record for result in read_results(tmp_path)] == [make_record()]
    assert len(caplog.records) == num_left_out
    # The next start stores it after all.
    append_result(tmp_path, make_record(seed=1))
    assert sorted(r.record["seed"] for r in read_results(tmp_path)) == [1, 42]


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk."""

    def limit_file_size() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    code = (
        "import sys; from pathlib import Path\n"
        "from stored_results import make_record\n"
        "from embedllm.errors import ResultError\n"
        "from embedllm.results import append_result\n"
        "try:\n    append_result(Path(sys.argv[1]), make_record())\n"
        "except ResultError as error:\n    sys.exit(f'told: {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        env=script_environment(PYTHONPATH=_TESTS, PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        preexec_fn=limit_file_size,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("told: the result cannot be stored in ")
    assert "File too large" in done.stderr
    assert list((tmp_path / "store").iterdir()) == []
