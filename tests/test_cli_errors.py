"""What train.py and evaluate.py say about wrong files, models, adapters and run folders."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_runs import (
    REPOSITORY,
    restored_logging,
    run_script,
    script_environment,
    train_tiny,
)

HEADER = "sent0,sent1,hard_neg\n"
ROWS = "".join(f"anchor {i},positive {i},negative {i}\n" for i in range(8))
MAX_HUB_SECONDS = 60.0

Script = Callable[..., str]
"""Runs a script of the repository that must fail, and returns its message."""


@pytest.fixture(autouse=True)
def _restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HYDRA_FULL_ERROR", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("EMBEDLLM_DATA_DIR", raising=False)
    with restored_logging():
        yield


def _snapshot(folder: Path) -> dict[Path, bytes]:
    """Returns every saved file but logs and Hydra's notes, which a new start may write."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".log" and ".hydra" not in path.parts
    }


@pytest.fixture
def fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Script:
    """Runs a script here, to save its start; it must leave with one message and delete nothing."""

    def run(script: str, *arguments: str) -> str:
        before = _snapshot(tmp_path)
        defaults = [f"paths.output_dir={tmp_path / 'out'}", "run_name=run"]
        defaults = [
            d for d in defaults if not any(a.startswith(d.split("=")[0]) for a in arguments)
        ]
        if script == "train.py":
            defaults += ["debug=tiny", "trainer.accelerator=cpu"]
        monkeypatch.setattr(sys, "argv", [script, *defaults, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        assert stop.value.code == 2
        after = _snapshot(tmp_path)
        assert {path: after.get(path) for path in before} == before
        return _only_message(capsys.readouterr().err)

    return run


def _only_message(stderr: str) -> str:
    lines = f"\n{stderr}".split("\nerror: ")
    assert len(lines) == 2, stderr
    assert "Traceback" not in stderr
    assert "Error executing job" not in stderr
    return lines[1]


# --- Training data ------------------------------------------------------------------------------


def _file(folder: Path, content: str | bytes, name: str = "train.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


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
        _file(tmp_path, content)
    message = fails("train.py", "data=nli", f"data.path={path}", "data.global_batch_size=2")
    for part in [str(path), *parts]:
        assert part in message
    # Nothing was begun.
    assert not (tmp_path / "out" / "run" / "run.json").exists()


def test_chosen_columns_that_are_not_there(tmp_path: Path, fails: Script) -> None:
    path = _file(tmp_path, HEADER + ROWS)
    columns = ["data.columns.anchor=sent0", "data.columns.positive=sent2"]
    message = fails("train.py", "data=nli", f"data.path={path}", *columns)
    assert "chosen columns are missing: 'sent2'" in message
    assert "Columns found: 'sent0', 'sent1', 'hard_neg'" in message
    message = fails("train.py", "data=nli", f"data.path={path}", columns[0])
    assert "data.columns.positive" in message


def test_a_kind_of_file_that_is_not_read(tmp_path: Path, fails: Script) -> None:
    path = _file(tmp_path, HEADER + ROWS, name="train.xlsx")
    message = fails("train.py", "data=nli", f"data.path={path}")
    assert (
        "unknown kind of file '.xlsx', allowed are .csv, .tsv, .jsonl, .json, .parquet" in message
    )


def test_a_batch_larger_than_the_data(tmp_path: Path, fails: Script) -> None:
    path = _file(tmp_path, HEADER + ROWS)
    arguments = [f"data.path={path}", "data.global_batch_size=16", "data.drop_last=true"]
    message = fails("train.py", "data=nli", "evaluation=none", *arguments)
    assert "8 examples make no batch of 16; lower data.global_batch_size" in message


def test_bad_rows_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _file(tmp_path, f"{HEADER}{ROWS}a,,c\n{ROWS}")
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


# --- Models -------------------------------------------------------------------------------------


def _hub_message(tmp_path: Path, offline: str | None) -> tuple[str, float]:
    start = time.monotonic()
    result = run_script(
        "train.py",
        "debug=tiny",
        "model=huggingface",
        "model.name=nobody/nothing",
        "model.tokenizer=bundled",
        "run_name=run",
        f"paths.output_dir={tmp_path}",
        environment=script_environment(HF_HUB_OFFLINE=offline, HF_HOME=str(tmp_path / "hub")),
        timeout=2 * MAX_HUB_SECONDS,
    )
    assert result.returncode == 2, result.stderr
    assert not (tmp_path / "run" / "run.json").exists()
    return _only_message(result.stderr), time.monotonic() - start


@pytest.mark.parametrize(
    "offline", [pytest.param("1", id="offline"), pytest.param(None, marks=pytest.mark.slow)]
)
def test_a_model_that_cannot_be_had(offline: str | None, tmp_path: Path) -> None:
    message, seconds = _hub_message(tmp_path, offline)
    assert "model.name: 'nobody/nothing' is no local folder and could not be had" in message
    assert "model.init=random" in message
    assert seconds < MAX_HUB_SECONDS


def test_a_model_folder_that_is_not_there(tmp_path: Path, fails: Script) -> None:
    folder = tmp_path / "model"
    arguments = ["model=huggingface", f"model.name={folder}", "model.tokenizer=bundled"]
    assert f"model.name: there is no folder {folder}" in fails("evaluate.py", *arguments)
    folder.mkdir()
    message = fails("evaluate.py", *arguments)
    assert f"the folder {folder} could not be read as a model" in message


def test_a_layer_that_the_model_lacks(fails: Script) -> None:
    message = fails("evaluate.py", "model=tiny", "model.layer=3")
    assert "model.layer=3 does not exist; this model has layers 1 to 2" in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("adapter.method=qlora", "adapter.method='qlora' is not known; allowed: none, full, "),
        ("+adapter.options.rank=8", "adapter.options has unknown keys rank; allowed for lora: "),
        ("prompt.template=nothing", "prompt.template has no {sentence} slot"),
    ],
)
def test_adapters_and_prompts_that_cannot_be_trained(
    override: str, part: str, fails: Script
) -> None:
    assert part in fails("train.py", override)


# --- Adapters -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("trained"), "evaluation=none").adapter


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in trained.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "damage", "part"),
    [
        ("adapter_model.safetensors", _flip, "adapter_model.safetensors is damaged"),
        ("adapter_model.safetensors", lambda b: b[:-100], "adapter_model.safetensors is damaged"),
        ("adapter_model.safetensors", lambda b: b"", "adapter_model.safetensors is damaged"),
        ("adapter_config.json", _flip, "adapter_config.json is damaged"),
        ("probe.safetensors", _flip, "probe.safetensors is damaged"),
        ("embedllm.json", lambda b: b[: len(b) // 2], "embedllm.json is damaged"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors is missing"),
        ("embedllm.json", None, "is no adapter folder: it has no embedllm.json"),
    ],
)
def test_a_damaged_adapter(
    name: str,
    damage: Callable[[bytes], bytes] | None,
    part: str,
    adapter: Path,
    fails: Script,
) -> None:
    path = adapter / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    message = fails("evaluate.py", f"adapter_path={adapter}")
    assert part in message
    assert str(adapter) in message


def test_an_adapter_that_is_not_there(tmp_path: Path, fails: Script) -> None:
    message = fails("evaluate.py", f"adapter_path={tmp_path}/nothing")
    assert f"{tmp_path}/nothing is no adapter folder" in message


def test_an_adapter_brings_its_own_prompt(adapter: Path, fails: Script) -> None:
    for override in ("prompt=plain", "prompt.clean_up=none"):
        message = fails("evaluate.py", f"adapter_path={adapter}", override)
        assert f"brings the prompt it was trained with, so {override} has no place" in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("model.architecture.hidden_size=64", "do not fit the model"),
        ("model.init_seed=1", "does not give the vectors it was saved with"),
    ],
)
def test_an_adapter_on_another_base(override: str, part: str, adapter: Path, fails: Script) -> None:
    message = fails("evaluate.py", f"adapter_path={adapter}", "model=tiny", override)
    assert part in message


# --- Run folders --------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A finished run whose folder says that it is not: adapter taken away, checkpoints there."""
    train_tiny(tmp_path / "out", "evaluation=none")
    run = tmp_path / "out" / "run"
    for path in (run / "adapter").iterdir():
        path.unlink()
    (run / "adapter").rmdir()
    return run


def test_a_run_folder_of_another_configuration(begun: Path, fails: Script) -> None:
    changes = ["trainer.learning_rate=1e-3", "adapter.options.r=8"]
    message = fails("train.py", "evaluation=none", *changes)
    assert f"{begun} holds a run with another configuration" in message
    assert "trainer.learning_rate: was 0.0005, is 0.001" in message
    assert "adapter.options.r: was 64, is 8" in message
    assert "temperature" not in message
    assert "run_name" in message


def test_a_run_folder_of_other_data(tmp_path: Path, fails: Script) -> None:
    path = _file(tmp_path, HEADER + ROWS)
    data = ["data=nli", f"data.path={path}", "data.global_batch_size=8"]
    train_tiny(tmp_path / "out", "evaluation=none", *data)
    _file(tmp_path, HEADER + ROWS.replace("anchor 0", "anchor x"))
    message = fails("train.py", "evaluation=none", *data)
    assert "data_sha256: was " in message


def test_resume_never(begun: Path, fails: Script) -> None:
    message = fails("train.py", "evaluation=none", "resume=never")
    assert f"{begun} already holds a run and resume=never; choose another run_name" in message


def test_a_truncated_checkpoint(begun: Path, fails: Script) -> None:
    newest = begun / "checkpoints" / "step-000008.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    message = fails("train.py", "evaluation=none")
    assert f"the checkpoint {newest} cannot be read" in message
    assert "delete it to resume from the one before" in message


@pytest.mark.parametrize("name", ["run.json", "results/before.json", "results/after.json"])
def test_a_damaged_record_of_a_run(name: str, tmp_path: Path, fails: Script) -> None:
    train_tiny(tmp_path / "out")
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


def test_exit_codes_of_real_processes(tmp_path: Path) -> None:
    for arguments in (
        ["train.py", "debug=tiny", "data=nli", "data.path=/nothing/here.csv"],
        ["evaluate.py", "adapter_path=/nothing/here"],
    ):
        result = run_script(*arguments, f"paths.output_dir={tmp_path}")
        assert result.returncode == 2, result.stderr
        assert "/nothing/here" in _only_message(result.stderr)
