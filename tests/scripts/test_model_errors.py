"""What train.py and evaluate.py say about wrong models, prompts and adapters."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from failing_scripts import Script, only_message
from tiny_runs import run_script, script_environment

MAX_HUB_SECONDS = 180.0


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
    return only_message(result.stderr), time.monotonic() - start


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


def test_the_exit_code_of_a_real_process(tmp_path: Path) -> None:
    """That of train.py is tested with a model that cannot be had."""
    result = run_script("evaluate.py", "adapter_path=/nothing", f"paths.output_dir={tmp_path}")
    assert result.returncode == 2, result.stderr
    assert "/nothing is no adapter folder" in only_message(result.stderr)


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
