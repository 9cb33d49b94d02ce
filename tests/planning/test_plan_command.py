"""`python -m embedllm plan` through the command line, and what it says about wrong values."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from plan_configs import GIB
from tiny_runs import compose_train, run_script

from embedllm import cli
from embedllm.config import HardwareConfig
from embedllm.entry import CONF_DIR
from embedllm.errors import ConfigError
from embedllm.planning import models
from embedllm.planning.hardware import resolve_hardware
from embedllm.planning.train_command import fixed_choices, train_arguments

HARDWARE = sorted((CONF_DIR / "hardware").glob("*.yaml"))
Plans = Callable[..., str]
"""Runs the command in this process, and returns what it printed."""


@pytest.fixture
def plans(
    entry_process: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Plans:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*overrides: str) -> str:
        capsys.readouterr()
        cli.main(["plan", *overrides])
        return capsys.readouterr().out

    return run


def test_the_command_prints_and_writes_everything(tmp_path: Path) -> None:
    output = tmp_path / "new" / "plan.json"
    arguments = ["model=tiny", "hardware=a100-80gb", "trainer.devices=8"]
    ended = run_script("-m", "embedllm", "plan", *arguments, f"plan.output={output}")
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout.replace("\n", "")
    for words in ("8 x a100-80gb", "recommended", "python train.py model=tiny", str(output)):
        assert words in printed
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["command"][:4] == ["python", "-m", "embedllm", "plan"]
    assert record["parameters"]["base"] == record["parameters"]["frozen"]["number"] > 20_000
    strategies = {c["strategy"] for c in record["candidates"]}
    assert strategies >= {"ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"}
    for candidate in record["candidates"]:
        parts = dict(candidate["memory"])
        assert parts.pop("total") == sum(parts.values())
    recommended = record["recommended"]
    assert recommended in record["candidates"]
    assert recommended["fits"]
    assert recommended["memory"]["total"] <= record["hardware"]["usable"]
    # The command that is printed trains in that way.
    words = shlex.split(record["train_command"])
    assert words[:2] == ["python", "train.py"]
    trained = compose_train(*words[2:])
    assert trained.strategy.title == recommended["strategy"]
    assert trained.model.quantization == recommended["quantization"]
    assert trained.trainer.activation_checkpointing == recommended["activation_checkpointing"]
    assert (trained.trainer.devices, trained.trainer.accelerator) == (8, "gpu")


def test_what_the_command_line_says_stays(plans: Plans) -> None:
    printed = plans(
        "model=tiny",
        "hardware=h100-80gb",
        "strategy=deepspeed_zero2",
        "trainer.devices=2",
        "model.quantization=nf4",
        "trainer.activation_checkpointing=layers",
    )
    assert "deepspeed_zero3" not in printed
    assert (
        "python train.py model=tiny trainer=gpu strategy=deepspeed_zero2 model.quantization=nf4 "
        "trainer.activation_checkpointing=layers trainer.devices=2" in printed
    )


def test_machines_are_started_by_srun(plans: Plans) -> None:
    printed = plans("model=tiny", "hardware=h100-80gb", "trainer.devices=8", "trainer.num_nodes=2")
    assert "16 x h100-80gb" in printed
    assert "srun python train.py model=tiny" in printed
    assert "trainer.num_nodes=2" in printed


def test_this_machine_with_real_texts(plans: Plans, tmp_path: Path) -> None:
    rates = ("hardware.bf16_tflops=1", "hardware.fp32_tflops=1")
    output = tmp_path / "plan.json"
    printed = plans(
        "model=tiny", "hardware=cpu", *rates, "plan.read_data=true", f"plan.output={output}"
    )
    assert "read from the data" in printed
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["recommended"]["strategy"] == "single"
    assert record["largest_contrastive_batch"] > 16
    assert record["hardware"]["kind"] == "cpu"


def test_what_fits_nowhere(plans: Plans) -> None:
    printed = plans("model=tiny", "hardware=a10-24gb", "hardware.memory_gib=0.1")
    assert "nothing fits 1 x a10-24gb; the nearest is strategy=" in printed
    assert "python train.py" not in printed


def test_the_question_the_other_way_round(
    plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MODELS", "opt-1*b.yaml")
    output = tmp_path / "models.json"
    printed = plans(
        "plan.question=models",
        "hardware=rtx-4090-24gb",
        "model.quantization=none",
        "trainer.activation_checkpointing=packs",
        f"plan.output={output}",
    )
    assert "OPT on 1 x rtx-4090-24gb" in printed
    record = json.loads(output.read_text(encoding="utf-8"))
    sizes = [answer["model"] for answer in record["models"]]
    assert sizes == ["opt-1.3b", "opt-13b"]
    alone = [a["model"] for a in record["models"] if a["strategy"] == "single" and a["fits"]]
    # 16 bits for a weight are 26 GB for the larger one.
    assert alone == sizes[:1]


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["hardware=abacus"], "hardware=abacus is not known"),
        (["hardware=cpu", "hardware.usable_ratio=1.5"], "hardware.usable_ratio=1.5 must not be ab"),
        (["hardware=cpu", "hardware.kind=tpu"], "hardware.kind='tpu' is not known; allowed: cuda"),
        (["plan.question=why"], "plan.question='why' is not known; allowed: strategy, models"),
        (["plan.output=plan.txt"], "plan.output='plan.txt' must be a file that ends in .json"),
        (["plan.outputs=x"], "did you mean output?"),
        (["adapter.method=none"], "adapter.method=none leaves nothing to train"),
        (["strategy=single", "trainer.devices=2"], "strategy=single was asked for 2 processes"),
        (
            ["model=huggingface", "model.name=/no/model", "hardware=a100-80gb"],
            "model.name: there is no folder /no/model",
        ),
        (
            ["model=tiny", "hardware=a100-80gb", "adapter=full", "model.quantization=nf4"],
            "adapter=full cannot train the weights of model.quantization=nf4",
        ),
        (
            ["model=tiny", "hardware=a100-80gb", "strategy=fsdp2", "model.quantization=int8"],
            "strategy=fsdp2 cuts weights apart",
        ),
    ],
)
def test_wrong_values_are_one_message(
    overrides: list[str], part: str, plans: Plans, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        plans(*overrides)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert part in told
    assert "Traceback" not in told


def test_train_arguments_leave_out_what_is_decided() -> None:
    overrides = [
        "model=opt-13b", "hardware=a100-80gb", "hardware.usable_ratio=0.8", "plan.output=x.json",
        "strategy=auto", "model.quantization=none", "trainer.devices=8", "+adapter.options.r=8",
        "trainer.activation_checkpointing=none", "data.global_batch_size=256",
    ]  # fmt: skip
    kept = ["model=opt-13b", "+adapter.options.r=8", "data.global_batch_size=256"]
    assert train_arguments(overrides, {"trainer": "gpu"}) == [*kept, "trainer=gpu"]
    assert train_arguments(overrides, {"trainer": "default"}) == kept
    assert train_arguments(["trainer=gpu"], {"trainer": "gpu"}) == ["trainer=gpu"]
    assert fixed_choices(overrides) == {"quantization", "checkpointing"}
    assert fixed_choices(["model=opt-13b", "strategy=ddp"]) == set()


@pytest.mark.parametrize(
    "path", sorted((CONF_DIR / "hardware").glob("*.yaml")), ids=lambda p: p.stem
)
def test_hardware_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"name: {path.stem}" in text
    if path.stem not in ("cpu", "local"):
        # The figures are published ones, and the file says where.
        assert "data sheet" in text or "architecture paper" in text


def test_processes_of_a_cpu_share_its_memory() -> None:
    config = HardwareConfig(
        name="x", kind="cpu", memory_gib=16, bf16_tflops=1, fp32_tflops=1, usable_ratio=1
    )
    assert resolve_hardware(config, devices=4).memory == 4 * GIB
    assert resolve_hardware(config, devices=1).usable == 16 * GIB


def test_a_gpu_that_is_not_here_needs_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"hardware=x has no hardware\.memory_gib"):
        resolve_hardware(HardwareConfig(name="x", kind="cuda"), devices=1)
    known = HardwareConfig(name="x", kind="cuda", memory_gib=10)
    assert resolve_hardware(known, devices=8).memory == 10 * GIB
    assert resolve_hardware(known, devices=8).flops_16 is None
