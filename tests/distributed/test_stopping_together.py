"""Processes that end: in order, by a request to stop, or because one of them is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch.distributed as dist
from processes import free_port, rank_variables
from tiny_runs import REPOSITORY, script_environment

from embedllm.distributed import joined
from embedllm.errors import PeerError, PreemptedError
from embedllm.preemption import stop_requests

# In one group after another, what rank 0 is told when it is asked to stop where it is.
_WORKER = """
import json, os, sys
import torch.distributed as dist
from embedllm import distributed
from embedllm.errors import PreemptedError
distributed._STOP_SECONDS = 3
said = []
for port, what in zip(sys.argv[1:], ("both", "one waits", "one crashes")):
    os.environ["MASTER_PORT"] = port
    try:
        with distributed.joined(timeout_seconds=60) as rank:
            if rank.rank == 1 and what == "one crashes":
                os._exit(1)
            if rank.rank == 1 and what == "one waits":
                # Asked too, but it hears of it when it has what it waits for, or an error.
                try:
                    dist.barrier()
                except RuntimeError as error:
                    raise PreemptedError("stopped") from error
            raise PreemptedError("stopped")
    except PreemptedError as error:
        said.append(error.may_requeue)
if os.environ["RANK"] == "0":
    print(json.dumps(said))
"""


def test_a_job_goes_back_into_the_queue_only_when_all_stop() -> None:
    ports = [free_port() for _ in range(3)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, *ports],
            cwd=REPOSITORY,
            env=script_environment(**rank_variables(rank, 2, ports[0])),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 1]
    assert json.loads(outputs[0]) == [True, True, False]


def _be_one_of(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rank_variables(0, world_size, free_port()).items():
        monkeypatch.setenv(name, value)


def test_asked_to_stop_before_all_have_met(monkeypatch: pytest.MonkeyPatch) -> None:
    _be_one_of(2, monkeypatch)
    monkeypatch.setattr(
        dist, "init_process_group", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
    )
    with stop_requests(), pytest.raises(PreemptedError) as caught, joined(timeout_seconds=5):
        pytest.fail("goes on")
    # The one that is missing may have crashed, and would again.
    assert not caught.value.may_requeue


@pytest.mark.parametrize("stops", [False, True])
def test_one_is_lost_when_all_is_done(stops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]")

    _be_one_of(1, monkeypatch)
    monkeypatch.setattr(dist, "barrier", lose)
    expected = PreemptedError if stops else PeerError
    try:
        with pytest.raises(expected) as caught, joined(timeout_seconds=5, even_alone=True):
            if stops:
                raise PreemptedError("stopped", is_agreed=True)
    finally:
        dist.destroy_process_group()
    assert caught.value.exit_code == (75 if stops else 3)
    # What all have agreed on holds.
    assert not stops or caught.value.may_requeue
