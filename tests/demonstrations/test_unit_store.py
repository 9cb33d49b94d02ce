"""What is computed is found again, whatever else happens to the files."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import build_tiny_config
from tiny_runs import REPOSITORY, read_json, script_environment

from embedllm.config import DemonstrationConfig, ModelConfig, PromptConfig, fingerprint
from embedllm.demonstrations.unit_store import UnitStore, prompt_key, store_identity

KEY = "0123456789abcdef"
PROMPT = PromptConfig(
    template='This sentence : "{sentence}" means in one word:"',
    demonstrations=[DemonstrationConfig("A man is smoking.", "Smoking", "captions")],
)
IDENTITY: dict[str, Any] = {"task": "sample-test", "seed": 0}


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    return UnitStore(tmp_path, IDENTITY)


# --- Keys ---------------------------------------------------------------------------------------


def test_keys_do_not_change_between_versions() -> None:
    # Units that took hours are found by these; a change of meaning raises _FORMAT instead.
    assert prompt_key(PromptConfig(template="{sentence}")) == "d045222cd9737bb7"
    assert prompt_key(PROMPT) == "a9a7b83340120dc5"
    model = ModelConfig(name="some/model", gguf_package="package", pooling="mean")
    identity = store_identity(model, dtype="float32", task="sample-test", data={"a": 1}, seed=42)
    assert fingerprint(identity) == "eabb670b28ac8ab7"


@pytest.mark.parametrize(
    "change",
    [
        {"template": "{sentence} :"},
        {"more_templates": ["{sentence} :"]},
        {"demonstrations": []},
        {"demonstrations": [DemonstrationConfig("A man is smoking.", "Smoke")]},
        {"demonstrations": [DemonstrationConfig("A man smokes.", "Smoking")]},
        {"demonstrations": [*PROMPT.demonstrations, DemonstrationConfig("a", "b")]},
        {"demonstration_end": '" .'},
        {"clean_up": "none"},
        {"pool_over": "sentence"},
        {"evaluation_max_sentence_tokens": 32},
    ],
)
def test_whatever_evaluation_sees_of_a_prompt_is_in_its_key(change: dict[str, Any]) -> None:
    assert prompt_key(replace(PROMPT, **change)) != prompt_key(PROMPT)


@pytest.mark.parametrize(
    "change",
    [
        {"demonstrations": [DemonstrationConfig("A man is smoking.", "Smoking", "elsewhere")]},
        {"training_clean_up": "none"},
        {"max_sentence_tokens": None},
    ],
)
def test_what_evaluation_does_not_see_is_not(change: dict[str, Any]) -> None:
    assert prompt_key(replace(PROMPT, **change)) == prompt_key(PROMPT)


def test_the_order_of_demonstrations_is_in_the_key() -> None:
    pair = [DemonstrationConfig("a", "b"), DemonstrationConfig("c", "d")]
    forward, backward = (
        replace(PROMPT, demonstrations=pair),
        replace(PROMPT, demonstrations=pair[::-1]),
    )
    assert prompt_key(forward) != prompt_key(backward)


def test_the_end_of_a_demonstration_is_nothing_without_one() -> None:
    plain = replace(PROMPT, demonstrations=[])
    assert prompt_key(plain) == prompt_key(replace(plain, demonstration_end="."))


def _identity(model: ModelConfig, **changes: Any) -> str:
    values = {"dtype": "float32", "task": "t", "data": {"t": "1"}, "seed": 1} | changes
    return fingerprint(store_identity(model, **values))


def test_everything_else_that_decides_is_in_the_folder_name() -> None:
    model = build_tiny_config("opt")
    same = [model, replace(model, trust_remote_code=True), replace(model, dtype="auto")]
    assert len({_identity(m) for m in same}) == 1
    others = [
        _identity(replace(model, pooling="mean")),
        _identity(replace(model, init_seed=1)),
        _identity(build_tiny_config("opt", architecture={"num_hidden_layers": 3})),
        _identity(model, dtype="bfloat16"),
        _identity(model, task="u"),
        _identity(model, data={"t": "2"}),
        _identity(model, seed=2),
    ]
    assert len({_identity(model), *others}) == len(others) + 1
    # A pretrained model brings its own architecture; the one in conf/ is for planning.
    pretrained = replace(model, init="pretrained")
    assert _identity(pretrained) == _identity(replace(pretrained, architecture={}))


def test_the_folder_says_what_it_is_for(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, IDENTITY)
    assert store.folder == tmp_path / f"units-{fingerprint(IDENTITY)}"
    assert read_json(store.folder / "identity.json") == IDENTITY
    assert UnitStore(tmp_path, IDENTITY | {"seed": 1}).folder != store.folder


# --- Reading ------------------------------------------------------------------------------------

SIZE = 12
TRUTH = np.random.default_rng(1).normal(size=SIZE)
units = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda pair: range(pair[0], min(pair[0] + pair[1], SIZE))
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(present=st.lists(units, max_size=5), stop=st.integers(1, SIZE))
def test_any_units_that_cover_the_pairs_do(
    tmp_path_factory: pytest.TempPathFactory, present: list[range], stop: int
) -> None:
    store = UnitStore(tmp_path_factory.mktemp("store"), IDENTITY)
    for unit in present:
        store.write(KEY, unit, TRUTH[unit.start : unit.stop])
    covered = {pair for unit in present for pair in unit}
    missing = [pair for gap in store.missing(KEY, stop) for pair in gap]
    assert missing == [pair for pair in range(stop) if pair not in covered]
    found = store.read(KEY, stop)
    if missing:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_array_equal(found, TRUTH[:stop])
    # Filling the gaps is all that is ever needed.
    for gap in store.missing(KEY, SIZE):
        store.write(KEY, gap, TRUTH[gap.start : gap.stop])
    np.testing.assert_array_equal(store.read(KEY, SIZE), TRUTH)


def test_nan_is_a_result(store: UnitStore) -> None:
    store.write(KEY, range(2), np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(store.read(KEY, 2), [np.nan, 1.0])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _save(values: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, values)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_truncate, id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\x00" * 200), id="garbage"),
        pytest.param(lambda path: path.write_bytes(pickle.dumps([1.0] * 4)), id="pickle"),
        pytest.param(_save(np.zeros(3)), id="too-short"),
        pytest.param(_save(np.zeros(5)), id="too-long"),
        pytest.param(_save(np.zeros(4, dtype=np.float32)), id="other-type"),
        pytest.param(_save(np.zeros((4, 1))), id="other-shape"),
    ],
)
def test_a_damaged_unit_counts_as_absent_and_is_named_once(
    store: UnitStore, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store.write(KEY, range(4), TRUTH[:4])
    store.write(KEY, range(4, 8), TRUTH[4:8])
    path = store.folder / KEY / "0-4.npy"
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert store.read(KEY, 8) is None
        assert store.missing(KEY, 8) == [range(4)]
        assert store.missing(KEY, 8) == [range(4)]
    [message] = [record.getMessage() for record in caplog.records]
    assert f"{path} is damaged" in message
    store.write(KEY, range(4), TRUTH[:4])
    np.testing.assert_array_equal(store.read(KEY, 8), TRUTH[:8])


def test_a_damaged_unit_gives_way_to_others_that_cover_it(store: UnitStore) -> None:
    store.write(KEY, range(8), TRUTH[:8])
    store.write(KEY, range(3), TRUTH[:3])
    store.write(KEY, range(3, 6), TRUTH[3:6])
    _truncate(store.folder / KEY / "0-8.npy")
    np.testing.assert_array_equal(store.read(KEY, 6), TRUTH[:6])
    assert store.missing(KEY, 8) == [range(6, 8)]


def test_other_files_are_no_units(store: UnitStore) -> None:
    store.write(KEY, range(2), TRUTH[:2])
    folder = store.folder / KEY
    for name in (".2-4.npy.a1b2", "2-4.npy.lock", "2-4.npy.tmp", "x2-4.npy", "2-4.5.npy"):
        (folder / name).write_bytes((folder / "0-2.npy").read_bytes())
    assert store.missing(KEY, 4) == [range(2, 4)]


# --- Claims and notes ---------------------------------------------------------------------------


def test_a_prompt_is_claimed_by_one_at_a_time(store: UnitStore, tmp_path: Path) -> None:
    other = UnitStore(tmp_path, IDENTITY, rank=1)
    with store.claimed(KEY) as is_first:
        assert is_first
        with other.claimed(KEY) as is_second, other.claimed("another") as is_free:
            assert (is_second, is_free) == (False, True)
    with other.claimed(KEY) as is_second:
        assert is_second


CLAIM = f"""
import sys, time
from pathlib import Path
from embedllm.demonstrations.unit_store import UnitStore
with UnitStore(Path(sys.argv[1]), {IDENTITY!r}).claimed({KEY!r}) as is_mine:
    print(is_mine, flush=True)
    time.sleep(600)
"""


def test_the_claim_of_a_killed_process_is_free(store: UnitStore, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path)],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with store.claimed(KEY) as is_mine:
            assert not is_mine
    finally:
        process.kill()
        process.communicate()
    with store.claimed(KEY) as is_mine:
        assert is_mine


def test_seconds_are_summed_over_processes_and_what_was_asked_for(tmp_path: Path) -> None:
    stores = [UnitStore(tmp_path, IDENTITY, rank=rank) for rank in (0, 1)]
    stores[0].record(KEY, range(4), seconds=1.5)
    stores[1].record(KEY, range(4, 8), seconds=2.0)
    stores[1].record("other", range(4), seconds=16.0)
    # A search that goes on keeps the notes.
    again = UnitStore(tmp_path, IDENTITY, rank=1)
    with (again.folder / "log" / "rank-0.csv").open("a") as file:
        file.write(f"{KEY},0,")
    assert again.seconds({KEY: 8}) == pytest.approx(3.5)
    assert again.seconds({KEY: 4}) == pytest.approx(1.5)
    assert again.seconds({KEY: 8, "other": 1}) == pytest.approx(19.5)
