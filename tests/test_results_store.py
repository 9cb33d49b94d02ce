"""The results store: what it refuses, many writers at once, and writers that are killed."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_results import make_record, make_task
from tiny_runs import script_environment

from embedllm import results as store
from embedllm.errors import ResultError
from embedllm.results import SCHEMA_VERSION, append_result, check_record, read_results

SCHEMA = json.loads(resources.files("embedllm").joinpath("result_schema.json").read_text())
TASK = ("tasks", "STSBenchmark")
REQUIRED = (
    *((key,) for key in SCHEMA["required"]),
    ("model", "name"),
    ("prompt", "template"),
    *(("averages", key) for key in SCHEMA["properties"]["averages"]["required"]),
    *((*TASK, key) for key in SCHEMA["$defs"]["task"]["required"]),
)
"""Every key that has to be there, with the keys above it."""

# What JSON can hold, by kind.
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "integer": st.integers(0, 100),
    "number": st.floats(0.25, 99.5).filter(lambda value: not value.is_integer()),
    "string": st.text(max_size=8),
    "array": st.lists(st.text(max_size=3), max_size=2),
    "object": st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
}
_TEXT = ("string",)
_TEXT_OR_NULL = ("string", "null")
_NUMBER = ("integer", "number")
_OBJECT = ("object",)
# Which of them fit each key; the texts that do not are other tests.
FITTING: dict[tuple[str, ...], tuple[str, ...]] = {
    ("schema",): ("integer",),
    ("kind",): _TEXT,
    ("run_name",): _TEXT,
    ("label",): _TEXT_OR_NULL,
    ("model",): _OBJECT,
    ("model", "name"): _TEXT,
    ("model_choice",): _TEXT_OR_NULL,
    ("adapter",): _TEXT_OR_NULL,
    ("adapter_sha256",): _TEXT_OR_NULL,
    ("prompt",): _OBJECT,
    ("prompt", "template"): _TEXT,
    ("dtype",): _TEXT,
    ("tasks",): _OBJECT,
    TASK: _OBJECT,
    (*TASK, "score"): _NUMBER,
    (*TASK, "metric"): _TEXT,
    (*TASK, "protocol"): _TEXT_OR_NULL,
    (*TASK, "probe"): _TEXT_OR_NULL,
    (*TASK, "num_examples"): ("integer",),
    (*TASK, "details"): _OBJECT,
    ("averages",): _OBJECT,
    ("averages", "sts"): (*_NUMBER, "null"),
    ("averages", "transfer"): (*_NUMBER, "null"),
    ("data",): _OBJECT,
    ("seed",): ("integer",),
    ("seconds",): _NUMBER,
    ("timing",): _OBJECT,
    ("versions",): _OBJECT,
    ("hardware",): _OBJECT,
    ("git_revision",): _TEXT_OR_NULL,
    ("command",): ("array",),
    ("finished",): _TEXT,
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # All characters, lone surrogates too: an argument may hold bytes that are no text.
    | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


def _parent(record: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path[:-1]:
        record = record[key]
    return record


def _fault_of(record: object) -> str:
    with pytest.raises(ResultError) as caught:
        check_record(record)
    return str(caught.value)


# --- The schema ---------------------------------------------------------------------------------


def test_the_made_record_fits() -> None:
    check_record(make_record())
    assert SCHEMA["properties"]["schema"]["const"] == SCHEMA_VERSION
    assert set(FITTING) == {*REQUIRED, TASK}


@pytest.mark.parametrize("path", REQUIRED, ids=".".join)
def test_a_missing_key_is_refused_by_name(path: tuple[str, ...]) -> None:
    record = make_record()
    del _parent(record, path)[path[-1]]
    above = ".".join(("$", *path[:-1]))
    assert _fault_of(record).endswith(f": {above}: {path[-1]!r} is a required property")


@pytest.mark.parametrize("path", FITTING, ids=".".join)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_value_of_the_wrong_type_is_refused_by_name(
    path: tuple[str, ...], data: st.DataObject
) -> None:
    wrong = [kind for kind in KINDS if kind not in FITTING[path]]
    kind = data.draw(st.sampled_from(wrong))
    record = make_record()
    _parent(record, path)[path[-1]] = data.draw(KINDS[kind])
    assert f"{'.'.join(('$', *path))}: " in _fault_of(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("schema",), True),
        (("kind",), "training"),
        (("run_name",), ""),
        (("adapter_sha256",), "a" * 63),
        (("adapter_sha256",), "A" * 64),
        (("dtype",), ""),
        (("tasks",), {}),
        ((*TASK, "score"), 100.5),
        ((*TASK, "score"), -101),
        ((*TASK, "score"), float("nan")),
        ((*TASK, "metric"), "pearson"),
        ((*TASK, "protocol"), "mean"),
        ((*TASK, "num_examples"), 0),
        (("averages", "sts"), float("inf")),
        (("averages", "transfer"), 100.01),
        (("seed",), -1),
        (("seconds",), -0.5),
        (("finished",), "2026-11-23T08:55:07"),
        (("finished",), "2026-13-23T08:55:07+00:00"),
        (("finished",), "2026-11-23"),
        (("finished",), "2026-11-23T08:55:07+00:00\n"),
        (("finished",), "0001-01-01T00:00:00+14:00"),
        (("finished",), "now"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(path: tuple[str, ...], value: object) -> None:
    record = make_record()
    _parent(record, path)[path[-1]] = value
    assert f"{'.'.join(('$', *path))}: " in _fault_of(record)


@pytest.mark.parametrize("value", ["2026-11-23T08:55:07Z", "2026-11-23T08:55:07.25+05:30"])
def test_times_with_any_zone_fit(value: str) -> None:
    check_record(make_record(finished=value))


@pytest.mark.parametrize("path", [("lable",), ("averages", "all"), (*TASK, "scores")])
def test_an_unknown_key_is_refused_by_name(path: tuple[str, ...]) -> None:
    record = make_record()
    _parent(record, path)[path[-1]] = 1
    message = _fault_of(record)
    assert f": {'.'.join(('$', *path[:-1]))}: " in message
    assert f"'{path[-1]}' was unexpected" in message


@pytest.mark.parametrize("key", ["model", "prompt", "data", "timing", "versions", "hardware"])
def test_open_objects_take_any_json_and_nothing_else(key: str) -> None:
    record = make_record()
    record[key]["more"] = {"deep": [1, None, {"text": "x"}], "tuple": (1, 2), "big": 10**400}
    check_record(record)
    for value, place in (
        (float("nan"), "more.deep[0]"),
        (Path("x"), "more.deep[0]"),
        (np.float32(1.5), "more.deep[0]"),
        ({1: "number as key"}, "more.deep[0]"),
    ):
        record[key]["more"] = {"deep": [value]}
        assert f"$.{key}.{place}: " in _fault_of(record)


def test_details_are_open() -> None:
    record = make_record()
    record["tasks"]["STSBenchmark"]["details"] = {"subsets": {"all": 1.5}, "splits": [1, 2]}
    check_record(record)


def test_many_faults_make_a_short_message() -> None:
    message = _fault_of({"text": "x" * 10_000})
    assert "and " in message
    assert message.endswith(" more")
    assert len(message) < 800
    assert "$: 'x" in _fault_of("x" * 10_000)


def test_too_deep_nesting_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert "nested too deeply" in _fault_of(make_record(timing={"deep": deep}))


def test_a_record_that_does_not_fit_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"\$\.seed: "):
        append_result(tmp_path / "store", make_record(seed="42"))
    assert list(tmp_path.iterdir()) == []


# --- Writing and reading ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.text(st.characters(), min_size=1, max_size=120),
    details=st.dictionaries(st.text(max_size=4), JSON, max_size=3),
    command=st.lists(st.text(st.characters(), max_size=5), max_size=3),
    label=st.none() | st.text(st.characters(), max_size=5),
)
def test_what_is_written_is_read(
    name: str,
    details: dict[str, Any],
    command: list[str],
    label: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("store")
    record = make_record(run_name=name, command=command, label=label)
    record["tasks"]["STSBenchmark"]["details"] = details
    before = copy.deepcopy(record)
    path = append_result(folder, record)
    assert record == before
    [stored] = read_results(folder, strict=True)
    assert (stored.path, stored.record) == (path, record)
    assert path.parent == folder
    assert path.name.isascii()


def test_the_file_name_and_its_rights(tmp_path: Path) -> None:
    record = make_record(run_name="opt 125m/é", finished="2026-11-23T01:30:00+02:00")
    path = append_result(tmp_path / "a" / "store", record)
    time_text, name, digest = path.stem.split("_")
    assert (time_text, name, len(digest)) == ("20261122T233000Z", "opt-125m", 6)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert append_result(tmp_path, make_record(run_name="..")).stem.split("_")[1] == "run"


def test_an_identical_record_is_stored_once(tmp_path: Path) -> None:
    first = append_result(tmp_path, make_record())
    changed = first.stat().st_mtime_ns
    assert append_result(tmp_path, make_record()) == first
    assert append_result(tmp_path, make_record(seconds=2.5)) != first
    assert len(read_results(tmp_path, strict=True)) == 2
    assert first.stat().st_mtime_ns == changed


@pytest.fixture(params=["with-links", "without-links"])
def _links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test on this file system and on one that has no hard links."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param == "without-links":
        monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.usefixtures("_links")
def test_a_name_that_is_taken_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_HASH_DIGITS", (0, 64))
    records = [make_record(seed=seed) for seed in range(3)]
    paths = [append_result(tmp_path, record) for record in records]
    assert len(set(paths)) == 3
    assert {len(path.stem) - len(paths[0].stem) for path in paths} == {0, 64}
    found = {result.path: result.record for result in read_results(tmp_path, strict=True)}
    assert found == dict(zip(paths, records, strict=True))
    assert set(tmp_path.iterdir()) == set(paths)


def test_a_stored_file_that_was_changed_is_not_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_HASH_DIGITS", (64,))
    path = append_result(tmp_path, make_record())
    path.write_text("{}")
    with pytest.raises(ResultError, match="was changed after it was stored"):
        append_result(tmp_path, make_record())
    assert path.read_text() == "{}"


def test_results_are_ordered_by_time_then_name(tmp_path: Path) -> None:
    times = {
        "c": "2026-11-23T12:00:00+00:00",
        "b": "2026-11-23T13:30:00+02:00",  # 11:30 UTC
        "d": "2026-11-23T07:00:00-05:00",  # 12:00 UTC
        "a": "2026-11-23T12:00:00.5Z",
    }
    for name, finished in times.items():
        append_result(tmp_path, make_record(run_name=name, finished=finished))
    found = read_results(tmp_path)
    assert [result.run_name for result in found] == ["b", "c", "d", "a"]
    assert found[0].finished.astimezone(UTC) == datetime(2026, 11, 23, 11, 30, tzinfo=UTC)


def test_properties(tmp_path: Path) -> None:
    scores = {"STS12": 50.5, "MR": 80.0}
    append_result(
        tmp_path, make_record(scores, sts=50.5, label="mine", adapter="a/b", model_choice="opt")
    )
    [result] = read_results(tmp_path)
    assert {task: result.score(task) for task in result.tasks} == scores
    assert result.score("STS13") is None
    assert (result.average("sts"), result.average("transfer")) == (50.5, None)
    assert (result.run_name, result.label, result.adapter) == ("first", "mine", "a/b")
    assert result.model_name == "opt"
    assert result.prompt_template == 'This sentence : "{sentence}" means'
    append_result(tmp_path, make_record())
    assert {found.model_name for found in read_results(tmp_path)} == {"opt", "facebook/opt-125m"}


# --- Stores that are damaged, missing or full ---------------------------------------------------

DAMAGED = {
    "cut.json": b'{"schema": 1,',
    "empty.json": b"",
    "bytes.json": b"\xff\xfe\x00",
    "list.json": b"[1, 2]",
    "foreign.json": b'{"name": "some-package", "version": "1.0.0"}',
    "newer.json": json.dumps(make_record(schema=2)).encode(),
    "nan.json": json.dumps(make_record(timing={"encode": float("nan")})).encode(),
    "deep.json": b"[" * 100_000,
}


def test_damaged_and_foreign_files_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = append_result(tmp_path, make_record())
    for name, content in DAMAGED.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    # Neither results nor damaged ones.
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / f".{path.name}.0123.tmp").write_text("{")
    (tmp_path / ".hidden.json").write_text("{")
    assert [result.path for result in read_results(tmp_path)] == [path]
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    named = {*DAMAGED, "folder.json"}
    assert f"left out {len(named)} of the files in {tmp_path}" in warning
    assert {line.split(": ")[0] for line in warning.splitlines()[1:]} == {
        str(tmp_path / name) for name in named
    }
    assert "$.schema: 1 was expected" in warning
    assert "$.timing.encode: nan" in warning


@pytest.mark.parametrize("name", DAMAGED)
def test_strict_refuses_a_damaged_file(name: str, tmp_path: Path) -> None:
    append_result(tmp_path, make_record())
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(ResultError, match=name):
        read_results(tmp_path, strict=True)


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_no_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=rf"no results store in .*{name} .*paths\.results_dir"):
        read_results(tmp_path / name)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(ResultError, match=r"store: .*set paths\.results_dir"):
        append_result(tmp_path / "store", make_record())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_is_one_message(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_result(tmp_path, make_record())
    before = list(tmp_path.iterdir())

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store.os, "fsync", refuse)
    message = rf"{os.strerror(number)}.*is still there; make room, or set paths\.results_dir"
    with pytest.raises(ResultError, match=message):
        append_result(tmp_path, make_record(seed=1))
    assert list(tmp_path.iterdir()) == before


# --- Several processes --------------------------------------------------------------------------

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


def _start_writer(*arguments: object, code: str = _WRITER) -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parent), str(Path(store.__file__).parent.parent)]
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
        _, errors = writer.communicate(timeout=60)
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
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    for writer in writers:
        writer.communicate()
    assert len(list(folder.iterdir())) == 1


def test_a_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    folder, start = tmp_path / "store", tmp_path / "start"
    writer = _start_writer(folder, start, 0, 0)
    _wait_until_ready(writer)
    start.touch()
    deadline = time.monotonic() + 30
    while not folder.exists() or len(list(folder.glob("*.json"))) < 20:
        assert time.monotonic() < deadline
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
        env=script_environment(PYTHONPATH=str(Path(__file__).parent), PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit_file_size,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("told: the result cannot be stored in ")
    assert "File too large" in done.stderr
    assert list((tmp_path / "store").iterdir()) == []


def test_transfer_tasks_fit() -> None:
    task = make_task(88.5, metric="accuracy", protocol=None, probe="logistic")
    check_record(make_record(tasks={"MR": task}, averages={"sts": None, "transfer": 88.5}))
