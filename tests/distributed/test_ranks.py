"""Who is who: what launchers say through the environment, and what is asked of them."""

from __future__ import annotations

import os
import re

import pytest
import torch.distributed as dist

from embedllm import distributed
from embedllm.distributed import main_only, share_from_main
from embedllm.entry import _leave_with
from embedllm.errors import ConfigError
from embedllm.launch import needs_launch
from embedllm.ranks import Rank, current_rank, default_run_name

_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"),
    *("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID"),
    *("SLURM_STEP_NUM_NODES", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"),
    "ENVIRONMENT",
)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
    default_run_name.cache_clear()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank()),
        (
            {
                "RANK": "5",
                "WORLD_SIZE": "8",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "4",
                "GROUP_RANK": "1",
            },
            Rank(5, 8, 1, num_nodes=2, node_rank=1),
        ),
        (
            {
                "SLURM_PROCID": "3",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_LOCALID": "1",
                "SLURM_NODEID": "1",
                "SLURM_STEP_NUM_NODES": "2",
            },
            Rank(3, 4, 1, num_nodes=2, node_rank=1),
        ),
        # sbatch without srun: one process on the first of two machines.
        (
            {
                "SLURM_PROCID": "0",
                "SLURM_LOCALID": "0",
                "SLURM_NODEID": "0",
                "SLURM_NTASKS": "4",
                "SLURM_NNODES": "2",
                "SLURM_JOB_ID": "7",
            },
            Rank(),
        ),
        # torchrun inside a job of SLURM.
        (
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "SLURM_STEP_NUM_TASKS": "1"},
            Rank(1, 2, 1),
        ),
    ],
)
def test_launchers(
    environment: dict[str, str], expected: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert current_rank() == expected


def test_a_run_without_a_name_is_named_by_its_start() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", default_run_name())
    # One name for all jobs of a sweep.
    assert default_run_name() == default_run_name()


def test_ranks_of_a_slurm_job_are_named_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"SLURM_JOB_ID": "42", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert default_run_name() == "slurm-42"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ENVIRONMENT": "BATCH"}, r"slurm-42"),
        ({"ENVIRONMENT": "BATCH", "SLURM_STEP_NUM_TASKS": "1"}, r"slurm-42"),
        (
            {"ENVIRONMENT": "BATCH", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "3"},
            r"slurm-41_3",
        ),
        # torchrun in a batch script: no need to ask rank 0.
        ({"ENVIRONMENT": "BATCH", "RANK": "1", "WORLD_SIZE": "2"}, r"slurm-42"),
        # Somebody sits at a shell inside the job and may start one run after another.
        ({}, r"\d{4}-.*"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, r"\d{4}-.*"),
    ],
)
def test_a_requeued_job_finds_its_run(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_JOB_ID": "42", **environment}.items():
        monkeypatch.setenv(name, value)
    assert re.fullmatch(expected, default_run_name())


def test_joining_changes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_NAMES, "MASTER_ADDR", "MASTER_PORT"):
        # Taken away again afterwards.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    environment = {
        "SLURM_PROCID": "3",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_JOB_ID": "42",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
        "ENVIRONMENT": "BATCH",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = current_rank()
    assert before == Rank(3, 4, 1, num_nodes=2, node_rank=1)
    distributed._set_environment(before)
    assert current_rank() == before
    # Where srun runs, which is where rank 0 is; the name of a node need not resolve.
    assert os.environ["MASTER_ADDR"] == "10.0.0.7"
    assert os.environ["MASTER_PORT"] == "15042"


@pytest.mark.parametrize(
    ("of_main", "is_said"), [("no key", True), ("another", False), (None, False)]
)
def test_what_one_rank_alone_finds_it_says(
    of_main: str | None,
    is_said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(distributed, "is_joined", lambda: True)
    monkeypatch.setattr(dist, "init_process_group", lambda *arguments, **options: None)
    monkeypatch.setattr(distributed, "_set_environment", lambda rank: None)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(distributed, "_COMPLAINT_SECONDS", 0.2)
    if of_main is not None:
        assert distributed._main_says(of_main, Rank(0, 2))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError) as found, distributed.joined(timeout_seconds=1):
        raise ConfigError("no key")
    with pytest.raises(SystemExit) as stop:
        _leave_with(found.value)
    assert stop.value.code == 2
    assert capsys.readouterr().err == ("" if is_said else "error: rank 1: no key\n")


def test_before_ranks_meet_rank_0_speaks_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        _leave_with(ConfigError("no key"))
    assert capsys.readouterr().err == ""
    assert distributed._main_says("no key", Rank(1, 2))


def test_alone_everything_is_done_here() -> None:
    assert main_only(lambda: 3) == 3
    assert share_from_main("x") == "x"


@pytest.mark.parametrize(
    ("world_size", "devices", "num_nodes", "expected"),
    [(1, 1, 1, False), (1, 2, 1, True), (2, 2, 1, False), (4, 1, 1, False), (4, 2, 2, False)],
)
def test_who_starts_the_processes(
    world_size: int,
    devices: int,
    num_nodes: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if world_size > 1:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
    assert needs_launch(devices=devices, num_nodes=num_nodes) is expected


def test_another_number_than_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"trainer\.devices=2.*ask for 2 processes, but 4"):
        needs_launch(devices=2, num_nodes=1)


def test_other_machines_need_a_launcher() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes=2 needs torchrun or srun"):
        needs_launch(devices=1, num_nodes=2)
