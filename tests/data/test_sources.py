from __future__ import annotations

import ast
import hashlib
import inspect
import logging
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from source_files import NASTY_ROWS, WRITERS, to_lists, write_bytes, write_csv

from embedllm.config import ColumnsConfig, DataConfig
from embedllm.data import sources
from embedllm.data.schema import ColumnNames, Example
from embedllm.data.sources import BadRow, read_examples
from embedllm.errors import ConfigError, DataError


@pytest.mark.parametrize("name", WRITERS)
def test_texts_survive_verbatim_in_every_format(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, NASTY_ROWS)
    result = read_examples(path)
    assert to_lists(result) == NASTY_ROWS
    assert (result.num_rows, result.num_bad, result.bad_rows) == (len(NASTY_ROWS), 0, [])
    assert result.columns == ColumnNames("sent0", "sent1", ("hard_neg",))
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.revision is None


@pytest.mark.parametrize("name", WRITERS)
def test_max_examples_and_explicit_columns(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, NASTY_ROWS)
    result = read_examples(
        str(path), columns=ColumnNames("hard_neg", "hard_neg", ("sent0",)), max_examples=2
    )
    assert result.examples == [
        Example("nan", "nan", ("None",)),
        Example("NaN", "NaN", ("null",)),
    ]
    assert result.num_rows == 2


@pytest.mark.parametrize("name", WRITERS)
def test_bad_rows_fail_with_count_and_key_and_can_be_skipped(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [["a", "b", "c"], *[["a", "b", " "]] * 24, ["d", "e", "f"]]
    path = WRITERS[name](tmp_path / name, rows)
    first_bad_line = 2 if path.suffix.lower() in (".jsonl", ".json", ".parquet") else 3
    with pytest.raises(DataError) as caught:
        read_examples(path)
    message = str(caught.value)
    assert "24 of 26 rows" in message
    assert f"{path}:{first_bad_line}: column 'hard_neg' is empty" in message
    assert message.count("is empty") == 5
    assert "data.on_bad_row=skip" in message

    with caplog.at_level(logging.WARNING):
        result = read_examples(path, on_bad_row="skip")
    assert to_lists(result) == [["a", "b", "c"], ["d", "e", "f"]]
    assert (result.num_rows, result.num_bad, len(result.bad_rows)) == (26, 24, 20)
    assert result.bad_rows[0] == BadRow(str(path), first_bad_line, "hard_neg", "is empty")
    assert "24 of 26 rows" in caplog.text
    assert str(result.bad_rows[0]) in caplog.text


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("on_bad_row", ["fail", "skip"])
def test_a_source_with_only_bad_rows_is_an_error(
    tmp_path: Path, name: str, on_bad_row: Any
) -> None:
    path = WRITERS[name](tmp_path / name, [["a", "", "c"]] * 3)
    with pytest.raises(DataError, match=r"3 of 3 rows .*(\n.*)*No row is usable"):
        read_examples(path, on_bad_row=on_bad_row)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "empty"),
        ("x.csv", b"\xef\xbb\xbf\n\n", "empty"),
        ("x.csv", b"sent0,sent1\n", "only a header"),
        ("x.jsonl", b"", "empty"),
        ("x.jsonl", b"\n \n", "empty"),
        ("x.parquet", b"", "not a whole Parquet file"),
        ("x.parquet", b"sent0,sent1\na,b\n", "not a whole Parquet file"),
        ("x.csv", b"a sentence,another one\nb,c\n", "Columns found: 'a sentence', 'another one'"),
        ("x.jsonl", b'{"text": "a"}\n', "Columns found: 'text'"),
        ("x.jsonl", b'[\n{"sent0": "a"}]\n', "one object a line|is not valid JSON"),
        ("x.jsonl", b'[{"sent0": "a"}]\n', "x.jsonl:1: is a JSON list, expected one object a line"),
        ("x.csv", b'sent0,"sent1"x\na,b\n', "x.csv:1: the header is not valid CSV"),
        ("x.csv", b"sent0,sent1,caf\xe9\na,b,c\n", "0xe9 at offset 15.*UTF-8"),
        ("x.csv", "sent0,sent1\na,b\n".encode("utf-16"), "save the file as UTF-8"),
        ("x.jsonl", '{"sent0": "a"}\n'.encode("utf-16"), "must be UTF-8"),
        ("x.txt", b"a\n", "unknown kind of file '.txt', allowed are .csv"),
        ("x.csv.gz", b"a\n", "unknown kind of file '.gz'"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write_bytes(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(path, on_bad_row="skip")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["missing.csv", "folder/missing.jsonl", "./missing", "/no/such", "a/b/c", "~x/y", "~/q"]
)
def test_missing_files_never_ask_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "probe_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=r"data\.path=.*no such file") as caught:
        read_examples(name)
    assert name in str(caught.value)


def test_options_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path is empty"):
        read_examples(" ")
    with pytest.raises(ConfigError, match=r"data\.on_bad_row='ignore', allowed are fail and skip"):
        read_examples(tmp_path, on_bad_row="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"data\.max_examples=0"):
        read_examples(tmp_path, max_examples=0)


def test_dataset_options_without_effect_on_a_file_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / "x.csv", [["a", "b", "c"]])
    read_examples(path)
    assert not caplog.records
    read_examples(path, split="dev", subset="triplet")
    assert "no effect of data.subset=triplet, data.split=dev" in caplog.text


def test_unread_columns_that_look_like_negatives_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / "x.csv", [["a", "b", "c"]], ["sent0", "sent1", "Hard Negative"])
    assert to_lists(read_examples(path)) == [["a", "b"]]
    assert "['Hard Negative'] are not read" in caplog.text


def test_several_negatives(tmp_path: Path) -> None:
    header = ["negative_2", "query", "negative", "positive", "negative_1"]
    path = write_csv(tmp_path / "x.csv", [["n2", "q", "n0", "p", "n1"]], header)
    assert read_examples(path).examples == [Example("q", "p", ("n0", "n1", "n2"))]


def test_importing_stays_light() -> None:
    heavy = ["torch", "pytorch_lightning", "hydra", "transformers", "datasets", "pandas", "pyarrow"]
    code = f"import sys, embedllm.data.sources; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_parameters_are_config_keys() -> None:
    parameters = set(inspect.signature(read_examples).parameters) - {"path_or_name"}
    assert parameters <= {field.name for field in fields(DataConfig)}


def data_keys_in(source: str) -> set[str]:
    """Returns what follows `data.` in the strings of Python code: messages and docstrings."""
    nodes = ast.walk(ast.parse(source))
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {key for text in texts for key in re.findall(r"(?<![\w.])data\.(\w+(?:\.\w+)*)", text)}


def test_messages_name_keys_that_exist() -> None:
    known = {field.name for field in fields(DataConfig)}
    known |= {f"columns.{field.name}" for field in fields(ColumnsConfig)}
    files = list(Path(sources.__file__).parent.glob("*.py"))
    named = {key for file in files for key in data_keys_in(file.read_text(encoding="utf-8"))}
    assert {"path", "on_bad_row", "revision", "columns.negatives"} <= named
    assert named <= known
    assert data_keys_in("raise DataError(f'data.colums.anchor={x} and data.path.')") == {
        "colums.anchor",
        "path",
    }
