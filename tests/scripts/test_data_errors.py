"""What train.py and evaluate.py say about wrong files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from failing_scripts import HEADER, ROWS, Script, write_file
from tiny_runs import train_tiny


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        pytest.param(None, ["no such file or folder"], id="missing"),
        pytest.param("", ["the file is empty"], id="empty"),
        pytest.param(HEADER, ["no examples, only a header"], id="header-only"),
        pytest.param(
            "premise,sent1\na,b\nc,d\n",
            ["the columns follow no layout", "Columns found: 'premise', 'sent1'", "sent0, sent1"],
            id="missing-column",
        ),
        pytest.param(
            f"{HEADER}{ROWS}a,,c\n{ROWS}a,b\n",
            [
                "2 of 18 rows of",
                "train.csv:10: column 'sent1' is empty",
                "train.csv:19: has 2 cells, the header 3",
                "data.on_bad_row=skip",
            ],
            id="bad-rows",
        ),
        pytest.param(
            f"{HEADER}{ROWS}caf\u00e9,b,c\n".encode("latin-1"),
            ["train.csv:10: column 'sent0' is not UTF-8", "byte 0xe9", "iconv"],
            id="wrong-encoding",
        ),
        pytest.param(f"{HEADER}{ROWS}".encode("utf-16"), ["is not UTF-8", "header"], id="utf-16"),
        pytest.param(f"{HEADER}a,b,c\n", ["has 1 usable examples", "at least 2"], id="one-row"),
    ],
)
def test_wrong_training_data(
    content: str | bytes | None, parts: list[str], tmp_path: Path, fails: Script
) -> None:
    path = tmp_path / "train.csv"
    if content is not None:
        write_file(tmp_path, content)
    message = fails("train.py", "data=nli", f"data.path={path}", "data.global_batch_size=2")
    for part in [str(path), *parts]:
        assert part in message
    # Nothing was begun.
    assert not (tmp_path / "out" / "run" / "run.json").exists()


def test_chosen_columns_that_are_not_there(tmp_path: Path, fails: Script) -> None:
    path = write_file(tmp_path, HEADER + ROWS)
    columns = ["data.columns.anchor=sent0", "data.columns.positive=sent2"]
    message = fails("train.py", "data=nli", f"data.path={path}", *columns)
    assert "chosen columns are missing: 'sent2'" in message
    assert "Columns found: 'sent0', 'sent1', 'hard_neg'" in message
    message = fails("train.py", "data=nli", f"data.path={path}", columns[0])
    assert "data.columns.positive" in message


def test_a_kind_of_file_that_is_not_read(tmp_path: Path, fails: Script) -> None:
    path = write_file(tmp_path, HEADER + ROWS, name="train.xlsx")
    message = fails("train.py", "data=nli", f"data.path={path}")
    assert (
        "unknown kind of file '.xlsx', allowed are .csv, .tsv, .jsonl, .json, .parquet" in message
    )


def test_a_batch_larger_than_the_data(tmp_path: Path, fails: Script) -> None:
    path = write_file(tmp_path, HEADER + ROWS)
    arguments = [f"data.path={path}", "data.global_batch_size=16", "data.drop_last=true"]
    message = fails("train.py", "data=nli", "evaluation=none", *arguments)
    assert "8 examples make no batch of 16; lower data.global_batch_size" in message


def test_bad_rows_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_file(tmp_path, f"{HEADER}{ROWS}a,,c\n{ROWS}")
    data = ["data=nli", f"data.path={path}", "data.global_batch_size=8", "data.on_bad_row=skip"]
    result = train_tiny(tmp_path / "out", "evaluation=none", *data)
    assert (result.adapter / "adapter_model.safetensors").is_file()
    assert "train.csv:10: column 'sent1' is empty\nThey are left out" in caplog.text


# --- STS data -----------------------------------------------------------------------------------


def _write_senteval(folder: Path) -> str:
    path = folder / "senteval" / "STS" / "STSBenchmark" / "sts-dev.csv"
    path.parent.mkdir(parents=True)
    row = "main-captions\tMSRvid\t2012test\t{}\t3.5\tA man sings.\tA man is singing.\n"
    path.write_text("".join(row.format(i) for i in range(3)))
    return str(path)


def _write_jsonl(folder: Path) -> str:
    path = folder / "sts" / "stsb_dev.jsonl"
    path.parent.mkdir(parents=True)
    pair = {"sentence1": "A man sings.", "sentence2": "A man is singing.", "score": 3.5}
    record = {"task": "STSBenchmark", "subset": "x", "split": "dev", **pair}
    path.write_text(f"{json.dumps(record)}\n" * 3)
    return str(path)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
@pytest.mark.parametrize("write", [_write_senteval, _write_jsonl])
def test_truncated_sts_data(
    script: str, write: Callable[[Path], str], tmp_path: Path, fails: Script
) -> None:
    path = write(tmp_path)
    model = ["model=tiny"] if script == "evaluate.py" else []
    message = fails(script, "evaluation=sts-dev", f"evaluation.data_dir={tmp_path}", *model)
    assert "STSBenchmark-dev, subset dev: found 3 pairs with a gold score, expected 1500" in message
    assert path in message
    assert "truncated" in message
    assert "evaluation.data_dir" in message


def test_no_sts_data(tmp_path: Path, fails: Script) -> None:
    message = fails("evaluate.py", "model=tiny", "evaluation=sts")
    assert "EMBEDLLM_DATA_DIR" in message
    folder = f"evaluation.data_dir={tmp_path}"
    message = fails("evaluate.py", "model=tiny", "evaluation=sts", folder)
    assert "No data found for STS12" in message
    assert str(tmp_path / "senteval") in message


def test_an_unknown_task(fails: Script) -> None:
    message = fails("evaluate.py", "model=tiny", "evaluation.tasks=[STS17]")
    assert "'STS17' in evaluation.tasks; known tasks: STS12, STS13" in message
