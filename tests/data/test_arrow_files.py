from __future__ import annotations

import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import NASTY_ROWS, skip_bad, to_lists, write_bytes, write_csv, write_parquet

from embedllm.data import sources
from embedllm.data.schema import ColumnNames
from embedllm.data.sources import read_examples
from embedllm.errors import DataError

MAX_UNREACHABLE_SECONDS = 30.0


# --- Parquet -----------------------------------------------------------------------------------


def test_parquet_without_rows_and_truncated(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [["a", "b", "c"]])
    pq.write_table(pq.read_table(path).slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no examples"):
        read_examples(tmp_path / "none.parquet")
    half = write_bytes(tmp_path / "half.parquet", path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_examples(half)


def test_parquet_bad_values(tmp_path: Path) -> None:
    bad_text = pa.array([b"ok", b"caf\xe9", b"ok", b"ok"]).view(pa.string())
    lists = pa.array([["x", "y"], ["x"], [None], None], pa.list_(pa.large_string()))
    table = pa.table({"query": ["a", "b", "c", "d"], "positive": bad_text, "negatives": lists})
    pq.write_table(table, tmp_path / "x.parquet")
    texts, bad = skip_bad(tmp_path / "x.parquet")
    assert texts == [["a", "ok", "x", "y"]]
    assert bad == [
        "x.parquet:2: column 'positive' is not UTF-8 (byte 0xe9 at offset 3 of the text)",
        "x.parquet:3: column 'negatives[0]' is null",
        "x.parquet:4: column 'negatives' is null",
    ]


def test_parquet_wrong_types_and_rows_beyond_one_batch(tmp_path: Path) -> None:
    num_rows = 3000
    texts = [f"text {i}" for i in range(num_rows)]
    dictionary = pa.array(texts).dictionary_encode()
    table = pa.table({"sent0": texts, "sent1": dictionary, "n": range(num_rows)})
    pq.write_table(table, tmp_path / "x.parquet")
    result = read_examples(tmp_path / "x.parquet")
    assert to_lists(result) == [[text, text] for text in texts]
    with pytest.raises(DataError, match=r"3000 of 3000 .*(\n.*)*:1: column 'n' is int, expected"):
        read_examples(tmp_path / "x.parquet", columns=ColumnNames("sent0", "sent1", ("n",)))


# --- Datasets, local and on the hub -------------------------------------------------------------


@pytest.fixture
def dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("dataset_cache")
def test_local_dataset_folder(tmp_path: Path) -> None:
    folder = tmp_path / "all-nli"
    folder.mkdir()
    write_parquet(folder / "train.parquet", NASTY_ROWS)
    write_parquet(folder / "test.parquet", [["t0", "t1", "t2"]])
    result = read_examples(folder)
    assert to_lists(result) == NASTY_ROWS
    assert to_lists(read_examples(folder, split="test")) == [["t0", "t1", "t2"]]
    assert to_lists(read_examples(folder, split="train[:2]")) == NASTY_ROWS[:2]
    assert result.sha256 == read_examples(folder).sha256
    assert result.sha256 != read_examples(folder, split="test").sha256
    with pytest.raises(DataError, match=r"data\.split=validation.*Unknown split"):
        read_examples(folder, split="validation")
    with pytest.raises(DataError, match=r"data\.subset=pair"):
        read_examples(folder, subset="pair")


@pytest.mark.usefixtures("dataset_cache")
def test_datasets_stored_as_csv_keep_texts_that_look_like_missing_values(tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    rows = [["None", "NA", "nan"], ["null", "N/A", "words"]]
    write_csv(folder / "train.csv", rows)
    assert to_lists(read_examples(folder)) == rows


def test_hub_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[dict[str, Any]] = []

    def load(name: str, subset: str | None, **options: Any) -> Any:
        calls.append({"name": name, "subset": subset, **options})
        return datasets.Dataset.from_dict(
            {"label": [0, 1], "anchor": ["a", "b"], "positive": ["c", " "], "negative": ["e", "f"]}
        )

    config = SimpleNamespace(config=object())
    monkeypatch.setattr(sources, "probe_hub", lambda name, revision: f"commit of {revision}")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: config)
    monkeypatch.setattr(datasets, "load_dataset", load)
    name = "sentence-transformers/all-nli"
    result = read_examples(name, subset="triplet", split="dev", revision="v1", on_bad_row="skip")
    assert to_lists(result) == [["a", "c", "e"]]
    assert str(result.bad_rows[0]) == f"{name}:2: column 'positive' is empty"
    assert result.revision == "commit of v1"
    assert calls == [{"name": name, "subset": "triplet", "split": "dev", "revision": "v1"}]
    assert result.sha256 == hashlib.sha256(b'["a", "c", "e"]\n').hexdigest()


def expect_hub_error(name: str, *parts: str) -> None:
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        read_examples(name)
    assert time.perf_counter() - start < MAX_UNREACHABLE_SECONDS
    for part in (name, "data.path", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["sentence-transformers/all-nli", "no-such-set"])
def test_unreachable_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The top-level domain `invalid` never resolves (RFC 2606), with or without a network.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    expect_hub_error(name, "no local file", "https://hub.invalid", "HF_HUB_OFFLINE=1")


def test_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: time.sleep(60))
    monkeypatch.setattr("embedllm.hub.TIMEOUT_SECONDS", 0.2)
    expect_hub_error("owner/silent", "no answer in 0.2 s")


def test_hub_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    expect_hub_error("owner/never-downloaded", "HF_HUB_OFFLINE", "data.subset=None")
