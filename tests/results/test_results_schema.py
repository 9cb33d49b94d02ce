"""What the schema of the results store takes and what it refuses, by name."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_results import make_record, make_task

from embedllm.errors import ResultError
from embedllm.results import SCHEMA_VERSION, append_result, check_record

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


def test_transfer_tasks_fit() -> None:
    task = make_task(88.5, metric="accuracy", protocol=None, probe="logistic")
    check_record(make_record(tasks={"MR": task}, averages={"sts": None, "transfer": 88.5}))
