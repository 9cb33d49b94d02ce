"""`python -m embedllm profile` through the command line, and what it says about wrong values."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import restored_logging, run_script

from embedllm import cli
from embedllm.profiling import command
from embedllm.profiling.sections import ENCODE_PARTS, TRAIN_PARTS

Fails = Callable[..., str]
"""Runs the command with overrides that must fail, and returns its message."""


def test_the_command_prints_and_writes_everything(tmp_path: Path) -> None:
    output, trace = tmp_path / "new" / "profile.json", tmp_path / "trace.json"
    ended = run_script(
        "-m",
        "embedllm",
        "profile",
        "model=tiny",
        "profile.num_steps=1",
        f"profile.output={output}",
        f"profile.trace={trace}",
        f"paths.cache_dir={tmp_path}/cache",
    )
    assert ended.returncode == 0, ended.stderr
    for words in ("trunk, forward", "executed / ceiling", "useful FLOP", str(output), str(trace)):
        assert words in ended.stdout.replace("\n", "")
    record = json.loads(output.read_text(encoding="utf-8"))
    assert [part["part"] for part in record["parts"]] == [str(part) for part in TRAIN_PARTS]
    assert record["config"]["model"]["name"] == "tiny-opt"
    assert record["command"][:4] == ["python", "-m", "embedllm", "profile"]
    assert record["ceiling"]["flops_per_second"] > 0
    assert {"torch", "python"} <= record["versions"].keys()
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"embedllm: trunk", "embedllm: backward", "embedllm: optimizer"} <= names


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs the command in this process, to save its start."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    monkeypatch.setattr(sys, "argv", sys.argv)

    def run(*overrides: str) -> None:
        given = [] if any(o.startswith("model=") for o in overrides) else ["model=tiny"]
        cli.main(["profile", *given, "trainer.accelerator=cpu", *overrides])

    with restored_logging():
        yield run


@pytest.fixture
def fails(
    run_here: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Fails:
    """Wrong values cost no loading of weights."""

    def load(*arguments: object, **keywords: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(command, "load_encoder", load)

    def run(*overrides: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_here(*overrides)
        assert stop.value.code == 2
        lines = f"\n{capsys.readouterr().err}".split("\nerror: ")
        assert len(lines) == 2
        assert "Traceback" not in lines[1]
        return lines[1]

    return run


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["profile.what=eval"], "profile.what='eval' is not known; allowed: train, encode"),
        (["profile.num_steps=0"], "profile.num_steps=0 is out of range; it must be at least 1"),
        (["profile.num_step=3"], "did you mean num_steps?"),
        (["profile.trace=a.txt"], "profile.trace='a.txt' must be a file that ends in .json or"),
        (["profile.output=a.csv"], "profile.output='a.csv' must be a file that ends in .json"),
        (["seed=-1"], "seed=-1 is out of range"),
        (["seed=4294967296"], "seed=4294967296 is out of range"),
        (["model=nothing"], "model=nothing is not known"),
        (["model=huggingface", "model.name=/no/model"], "model.name: there is no folder"),
        (["adapter.method=none"], "adapter.method=none leaves nothing to train"),
        (["adapter.method=qlora"], "adapter.method='qlora' is not known; allowed: none, full"),
        (["data=nli", "data.path=/no/file.csv"], "data.path=/no/file.csv: no such file"),
        (["method=echo"], "prompt.pool_over=sentence works without training only"),
        (
            ["data.global_batch_size=8", "trainer.accumulate_grad_batches=3"],
            "data.global_batch_size=8 must be a multiple of trainer.accumulate_grad_batches=3",
        ),
        (["prompt.template=nothing", "profile.what=encode"], "has no {sentence} slot"),
    ],
)
def test_wrong_values_are_one_message(
    overrides: list[str], part: str, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert part in fails(*overrides)


@pytest.mark.parametrize("key", ["profile.trace", "profile.output"])
def test_a_folder_is_no_file(key: str, fails: Fails, tmp_path: Path) -> None:
    folder = tmp_path / "a.json"
    folder.mkdir()
    assert f"{key}={folder} is a folder" in fails(f"{key}={folder}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(fails: Fails) -> None:
    assert "no CUDA device is visible" in fails("trainer.accelerator=gpu")


def test_encoding_names_what_has_no_effect(
    run_here: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "encode.json"
    run_here(
        "profile.what=encode",
        "profile.num_steps=1",
        "adapter=full",
        "trainer.share_prefix=false",
        "trainer.precision=bf16-mixed",
        f"profile.output={output}",
    )
    assert "no effect of adapter, trainer.precision\n" in capsys.readouterr().err
    record = json.loads(output.read_text(encoding="utf-8"))
    parts = {part["part"]: part for part in record["parts"]}
    assert list(parts) == [str(part) for part in ENCODE_PARTS]
    assert parts["prefix"]["flops"] == 0
    assert record["ceiling"]["dtype"] == "float32"
