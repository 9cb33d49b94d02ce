"""Strategies that contradict themselves or the rest of the configuration."""

from __future__ import annotations

import pytest
from tiny_runs import compose_evaluate, compose_train

from embedllm.config import StrategyConfig
from embedllm.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=ddp", "strategy.stage=2"], r"belong to DeepSpeed, not to strategy\.name=ddp"),
        (["strategy=fsdp2", "strategy.offload=cpu"], r"belong to DeepSpeed"),
        (["strategy=deepspeed_zero2", "strategy.stage=4"], r"strategy\.stage=4 is not a ZeRO"),
        (["strategy=deepspeed_zero1", "strategy.offload=cpu"], r"needs strategy\.stage=2 or 3"),
        (
            ["strategy=deepspeed_zero2_offload", "strategy.offload=nvme"],
            r"strategy\.offload=nvme needs strategy\.stage=3 and strategy\.nvme_path",
        ),
        (["strategy=deepspeed_zero3_offload", "strategy.offload=nvme"], r"strategy\.nvme_path"),
        (["trainer.devices=2"], r"strategy=single was asked for 2 processes"),
        (
            ["strategy=deepspeed_zero3", "trainer.activation_checkpointing=layers"],
            r"activation_checkpointing=layers does not work with ZeRO 3",
        ),
        (["strategy=fsdp2", "model.quantization=int8"], r"use strategy=ddp or deepspeed_zero2"),
    ],
)
def test_contradictions(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_train("debug=tiny", *overrides)


def test_evaluation_with_several_processes_needs_a_strategy() -> None:
    with pytest.raises(ConfigError, match=r"strategy=single was asked for 2 processes"):
        compose_evaluate("model=tiny", "devices=2")
    assert compose_evaluate("model=tiny", "devices=2", "strategy=ddp").devices == 2


@pytest.mark.parametrize(
    "name",
    [
        *("single", "ddp", "fsdp2", "auto", "deepspeed_zero1", "deepspeed_zero2"),
        *("deepspeed_zero3", "deepspeed_zero2_offload", "deepspeed_zero3_offload"),
    ],
)
def test_titles_are_the_names_of_the_files(name: str) -> None:
    strategy = compose_train("debug=tiny", f"strategy={name}").strategy
    assert strategy.title == name
    assert strategy.shards_weights == (name == "fsdp2" or "zero3" in name)


def test_a_disk_has_a_title_too() -> None:
    strategy = StrategyConfig(name="deepspeed", stage=3, offload="nvme", nvme_path="/scratch")
    assert strategy.title == "deepspeed_zero3_nvme"
