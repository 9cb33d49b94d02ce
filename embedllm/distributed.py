"""The processes of a run: which one this is, and what they tell one another.

torchrun, srun or `launch.py` start the processes and say through the environment who is who. Files
are read and written by rank 0 first or alone; tensors go through torch's process group.

Shapes: W processes, n rows of this one, N rows of all, D embedding_dim.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from embedllm.errors import ConfigError, PeerError, PreemptedError
from embedllm.ranks import Rank, current_rank

_T = TypeVar("_T")

_COMPLAINT: Final = "embedllm/complaint"
# How long rank 0 may take longer to find the same mistake.
_COMPLAINT_SECONDS: Final = 5.0

# A little less than what SLURM leaves between SIGTERM and SIGKILL.
_STOP_SECONDS: Final = 20
# What torch and its backends raise when another process is gone or does not answer.
_LOST_PEER: Final = (
    "closed by peer",
    "connection reset",
    "connection refused",
    "timed out",
    "timeout",
    "broken pipe",
    "socket",
    "gloo",
    "nccl",
)


def use_device_of(rank: Rank) -> None:
    """Makes the process' own GPU the current one, where there are GPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local_rank % torch.cuda.device_count())


@contextmanager
def joined(*, timeout_seconds: int, even_alone: bool = False) -> Iterator[Rank]:
    """Joins this process with the others of its run.

    Args:
        timeout_seconds: How long one may wait for another.
        even_alone: Make a group of one for a single process too, for libraries that need one.

    Raises:
        PeerError: Another process ended or does not answer, now or inside the block.
        PreemptedError: This process was asked to stop. Its job may be requeued only if all
            processes of the run were: after a crash the launcher stops the others likewise.
    """
    rank = current_rank()
    use_device_of(rank)
    if dist.is_initialized() or (rank.world_size == 1 and not even_alone):
        yield rank
        return
    _set_environment(rank)
    with _lost_peer_told(timeout_seconds):
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                timeout=timedelta(seconds=timeout_seconds),
            )
            yield rank
        except PreemptedError as error:
            if error.is_agreed:
                # All have saved what they did: that one is gone already changes nothing.
                with suppress(RuntimeError):
                    _part()
            else:
                error.may_requeue = _all_stop(rank)
            raise
        except ConfigError as error:
            error.is_said = _main_says(str(error), rank)
            raise
        _part()


@contextmanager
def _lost_peer_told(timeout_seconds: int) -> Iterator[None]:
    """Turns what torch raises when another process is gone into one message."""
    try:
        yield
    except RuntimeError as error:
        # EmbedllmErrors are ValueErrors; torch tells a lost peer by the text alone.
        text = str(error)
        if not any(sign in text.lower() for sign in _LOST_PEER):
            raise
        raise PeerError(
            "another process of this run ended or did not answer for "
            f"{timeout_seconds} s (strategy.timeout_seconds): {text.splitlines()[0][:200]}. "
            "Its own message is above; the same command goes on from the last checkpoint"
        ) from error


def _part() -> None:
    dist.barrier()
    dist.destroy_process_group()


def _all_stop(rank: Rank) -> bool:
    """Whether all processes stop in order, each where it is; rank 0 is told."""
    if not dist.is_initialized():
        # They have not met, and one that is missing may have crashed.
        return False
    store = dist.distributed_c10d._get_default_store()
    keys = [f"embedllm/stopped/{number}" for number in range(rank.world_size)]
    with suppress(RuntimeError):
        store.set(keys[rank.rank], "")
        # Who waits for this process is woken up.
        dist.destroy_process_group()
        if rank.is_main:
            store.wait(keys, timedelta(seconds=_STOP_SECONDS))
            return True
    return False


def _main_says(message: str, rank: Rank) -> bool:
    """Whether rank 0 leaves with the same message; what only this machine lacks it knows not of."""
    if not is_joined():
        return True
    store = dist.distributed_c10d._get_default_store()
    try:
        if rank.is_main:
            store.set(_COMPLAINT, message)
            return True
        store.wait([_COMPLAINT], timedelta(seconds=_COMPLAINT_SECONDS))
        return bool(store.get(_COMPLAINT).decode() == message)
    except dist.DistStoreError:
        return False
    except RuntimeError:
        # Rank 0 is gone, and the store with it: it had something to say.
        return True


def _set_environment(rank: Rank) -> None:
    """Completes what the launcher leaves out of what torch reads."""
    if rank.world_size == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    if "MASTER_ADDR" not in os.environ:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        if not os.environ.get("SLURM_STEP_NUM_TASKS"):
            raise ConfigError(
                f"there are {rank.world_size} processes, but MASTER_ADDR and MASTER_PORT do not "
                "say where they meet; start them with torchrun or srun"
            )
        environment = SLURMEnvironment()
        # A batch script runs srun on its first node, where rank 0 is; names may not resolve.
        address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
        is_batch = os.environ.get("ENVIRONMENT") == "BATCH"
        if not (is_batch and address):
            address = environment.main_address
        os.environ["MASTER_ADDR"] = address
        os.environ["MASTER_PORT"] = str(environment.main_port)
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank.rank), str(rank.world_size)
    os.environ["LOCAL_RANK"] = str(rank.local_rank)
    # What is read from now on instead of srun's own variables.
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(rank.world_size // rank.num_nodes))
    os.environ.setdefault("GROUP_RANK", str(rank.node_rank))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return cast(int, listener.getsockname()[1])


def is_joined() -> bool:
    """Whether there are other processes to talk to."""
    return dist.is_initialized() and dist.get_world_size() > 1


def main_first(task: Callable[[], _T]) -> _T:
    """Returns the task's result on every rank; rank 0 does it before the others.

    So downloads and caches are made once, and what fails for all fails on rank 0, with one message.

    Raises:
        PeerError: It failed on rank 0, and this is another one.
    """
    if not is_joined():
        return task()
    if dist.get_rank() == 0:
        return main_only(task)
    main_only(task)
    return task()


def main_only(task: Callable[[], _T]) -> _T:
    """Does the task on rank 0 while the others wait; they get None.

    Raises:
        PeerError: It failed on rank 0, and this is another one.
        PreemptedError: Rank 0 was asked to stop.
    """
    if not is_joined():
        return task()
    failure: tuple[str, int] | None = None
    result = cast(_T, None)
    try:
        if dist.get_rank() == 0:
            result = task()
    except BaseException as error:
        failure = (str(error), getattr(error, "exit_code", 1))
        raise
    finally:
        failure = share_from_main(failure)
    if failure is not None:
        if failure[1] == PreemptedError.exit_code:
            raise PreemptedError(failure[0])
        raise PeerError(f"rank 0 failed: {failure[0]}", exit_code=failure[1])
    return result


def share_from_main(value: _T) -> _T:
    """Returns rank 0's value on every rank."""
    if not is_joined():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return cast(_T, box[0])


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on at least one rank."""
    return largest_of_ranks(int(flag)) > 0


def on_all_ranks(flag: Tensor) -> bool:
    """Whether a flag, on this process' device, is set on every rank."""
    if is_joined():
        flag = flag.int()
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)


def largest_of_ranks(value: int) -> int:
    """Returns the largest value of all ranks."""
    if not is_joined():
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)


def split_evenly(costs: Sequence[int], parts: int) -> list[range]:
    """Returns `parts` neighbouring ranges whose costs are about equal.

    Args:
        costs: Cost of each item, positive.
        parts: How many ranges; none is empty as long as there are that many items.
    """
    ends = np.cumsum(costs, dtype=np.float64)
    total = ends[-1] if len(ends) else 0.0
    borders = [0]
    for part in range(1, parts):
        border = int(np.searchsorted(ends, total * part / parts, side="left")) + 1
        # The item that crosses the border goes where more of it lies.
        if border <= len(ends) and ends[border - 1] - costs[border - 1] / 2 > total * part / parts:
            border -= 1
        lowest = min(borders[-1] + 1, len(costs))
        highest = max(len(costs) - (parts - part), lowest)
        borders.append(min(max(border, lowest), highest))
    borders.append(len(costs))
    return [range(start, stop) for start, stop in pairwise(borders)]


def gather_vectors(vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """Returns the rows of all ranks in their order, with gradient: [n, D] to [N, D].

    The gradient of a row is the sum of its gradients on all ranks.

    Args:
        vectors: Rows of this rank, on its device.
        counts: Rows of every rank.
    """
    if not is_joined():
        return vectors
    # Collectives take equal shapes; the rows that fill up are cut off again, so nothing flows back.
    room = max(counts)
    filled = torch.cat([vectors, vectors.new_zeros(room - len(vectors), vectors.shape[1])])
    parts = cast(Any, _GatherWithGradient).apply(filled).split(room)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _GatherWithGradient(torch.autograd.Function):
    """All rows of all ranks; backwards each rank gets the sum of what all say about its own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_arrays(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all ranks in their order, [n, D] to [N, D] float32."""
    if not is_joined():
        return rows
    counts = [torch.zeros(2, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(rows.shape))
    width = int(max(count[1] for count in counts))
    parts = [torch.empty(int(count[0]), width) for count in counts]
    # One after another, so that no rank holds more than the result and one part.
    for source, part in enumerate(parts):
        if source == dist.get_rank() and len(rows):
            part.copy_(torch.from_numpy(rows))
        if len(part):
            dist.broadcast(part, src=source)
    return torch.cat(parts).numpy()
