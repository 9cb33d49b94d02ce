"""The results store: what is written is read, and files that are damaged, taken or foreign."""

from __future__ import annotations

import copy
import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_results import make_record

from embedllm import results as store
from embedllm.errors import ResultError
from embedllm.results import append_result, read_results

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
    advice = r"is still there, and the same command stores it; make room, or set paths\.results_dir"
    message = f"{os.strerror(number)}.*{advice}"
    with pytest.raises(ResultError, match=message):
        append_result(tmp_path, make_record(seed=1))
    assert list(tmp_path.iterdir()) == before
