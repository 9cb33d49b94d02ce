"""What this machine has, and what of it is free."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
from plan_configs import GIB

from embedllm.config import HardwareConfig
from embedllm.planning import host
from embedllm.planning.hardware import resolve_hardware
from embedllm.planning.host import host_memory

_Memory = namedtuple("_Memory", "total available")
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB, 48 of them free; its control groups are empty files and folders."""
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: _Memory(64 * GIB, 48 * GIB))
    monkeypatch.setattr(host, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(host, "_MOUNT", tmp_path / "fs")
    return tmp_path


def write_limit(path: Path, limit: int | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{limit}\n")


def found() -> tuple[float, float]:
    return host_memory(only_free=False) / GIB, host_memory(only_free=True) / GIB


def test_without_limits(groups: Path) -> None:
    assert found() == (64, 48)
    (groups / "cgroup").write_text("0::/user.slice\n")
    write_limit(groups / "fs/user.slice/memory.max", "max")
    assert found() == (64, 48)


def test_the_limit_of_a_job_counts_in_its_steps(groups: Path) -> None:
    (groups / "cgroup").write_text("0::/slurm/job_7/step_0\n")
    write_limit(groups / "fs/slurm/job_7/step_0/memory.max", "max")
    write_limit(groups / "fs/slurm/job_7/memory.max", 16 * GIB)
    assert found() == (16, 16)


def test_a_container_sees_its_group_as_the_root(groups: Path) -> None:
    (groups / "cgroup").write_text("0::/docker/abc\n")
    write_limit(groups / "fs/memory.max", 56 * GIB)
    assert found() == (56, 48)


def test_the_older_version(groups: Path) -> None:
    (groups / "cgroup").write_text("9:cpu,memory:/slurm/job_7\n1:name=systemd:/x\n0::/\n")
    write_limit(groups / "fs/memory/memory.limit_in_bytes", UNLIMITED_V1)
    write_limit(groups / "fs/memory/slurm/job_7/memory.limit_in_bytes", 8 * GIB)
    assert found() == (8, 8)


def test_a_plan_counts_all_of_a_device_and_a_run_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    properties = namedtuple("properties", "total_memory")(80 * GIB)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (30 * GIB, 80 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 5 * GIB)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 3 * GIB)
    config = HardwareConfig(name="x", kind="cuda", bf16_tflops=1, fp32_tflops=1)
    assert resolve_hardware(config, devices=2).memory == 80 * GIB
    assert resolve_hardware(config, devices=2, only_free=True).memory == 32 * GIB
