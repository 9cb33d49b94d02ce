"""What a training asks of a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_runs import compose_train

from embedllm.config import HardwareConfig
from embedllm.errors import ConfigError
from embedllm.planning.job_resources import JobResources, job_resources

_A100 = HardwareConfig(
    name="a100-80gb",
    kind="cuda",
    memory_gib=79.1,
    bf16_tflops=312.0,
    fp32_tflops=19.5,
    host_memory_gib=1024,
)


def _needs(*overrides: str) -> JobResources:
    return job_resources(compose_train("trainer=gpu", *overrides), _A100)


def test_a_small_model_has_one_device() -> None:
    needs = _needs("model=opt-125m", "strategy=auto")
    assert (needs.processes, needs.gpus) == (1, 1)
    assert 4 < needs.memory_gib < 32


def test_as_many_devices_as_it_needs() -> None:
    # All of OPT-125M is trained in 1.8 GiB on one device, 1.6 on two, 1.3 on four (FSDP).
    needs = [
        job_resources(
            compose_train("trainer=gpu", "model=opt-125m", "adapter=full", "strategy=fsdp2"),
            replace(_A100, name="small", memory_gib=memory_gib, usable_ratio=1.0),
        )
        for memory_gib in (4.0, 1.65)
    ]
    assert [(n.processes, n.gpus) for n in needs] == [(1, 1), (2, 2)]


@pytest.mark.slow  # Plans OPT-66B in all ways.
def test_a_large_one_has_as_many_as_it_needs() -> None:
    # 66 billion weights of two bytes are 123 GiB; one could do it with states in host memory.
    needs = _needs("model=opt-66b", "strategy=auto")
    assert needs.processes == needs.gpus == 4
    assert needs.memory_gib > _needs("model=opt-125m", "strategy=auto").memory_gib


def test_what_is_set_is_kept() -> None:
    assert _needs("model=opt-125m", "strategy=ddp", "trainer.devices=4").gpus == 4


def test_one_process_stays_one() -> None:
    with pytest.raises(ConfigError, match=r"strategy=single does not fit 1 x a100-80gb"):
        _needs("model=opt-66b", "strategy=single")
