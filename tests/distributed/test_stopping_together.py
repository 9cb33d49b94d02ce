"""A job goes back into the queue only when all its processes stop in order, not after a crash."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

from tiny_runs import REPOSITORY, script_environment

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


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_only_when_all_stop() -> None:
    ports = [_free_port() for _ in range(3)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, *ports],
            cwd=REPOSITORY,
            env=script_environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 1]
    assert json.loads(outputs[0]) == [True, True, False]
