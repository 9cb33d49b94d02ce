"""One rank of a test: runs the trainings of a job file, one after another, in one process group.

Started with the job file's path and what torchrun says of a rank.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS / "training")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor  # noqa: E402


def gather_without_gradient(vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """The common mistake: the other ranks' vectors are constants."""
    from embedllm.distributed import gather_vectors

    everything = gather_vectors(vectors.detach(), counts)
    start = sum(counts[: dist.get_rank()])
    return torch.cat([everything[:start], vectors, everything[start + len(vectors) :]])


def gather_nothing(vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """Each rank has its own negatives alone; the others' rows are zero."""
    start = sum(counts[: dist.get_rank()])
    rows = vectors.new_zeros(sum(counts), vectors.shape[1]).clone()
    return torch.cat([rows[:start], vectors, rows[start + len(vectors) :]])


def gather_in_wrong_order(vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """All vectors with their gradients, but the ranks' parts change places."""
    from embedllm.distributed import gather_vectors

    return gather_vectors(vectors, counts).roll(counts[0], dims=0)


MISTAKES = {f.__name__: f for f in (gather_without_gradient, gather_nothing, gather_in_wrong_order)}


@contextmanager
def circumstances(job: dict[str, Any]) -> Iterator[None]:
    """What happens to a training beside its configuration."""
    import pytest
    from interrupted_runs import KillAtStep, asked_at, dying_at
    from poisoned_steps import poisoned_gradients
    from tiny_runs import extra_callback

    with ExitStack() as stack:
        if job["die_at"]:
            stack.enter_context(dying_at(job["die_at"]))
        if job["asked_at"]:
            batch, rank, name = job["asked_at"]
            is_this_rank = rank == dist.get_rank()
            stack.enter_context(asked_at(batch, signal.Signals[name], is_this_rank=is_this_rank))
        last = dist.get_world_size() - 1
        if job["killed_at"] and dist.get_rank() == last:
            stack.enter_context(extra_callback(KillAtStep(job["killed_at"])))
        if job["poisoned"]:
            stack.enter_context(poisoned_gradients(*job["poisoned"], rank=last))
        if job["mistake"]:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr("embedllm.training.module.gather_vectors", MISTAKES[job["mistake"]])
        yield


def main() -> None:
    torch.set_num_threads(1)
    from tiny_runs import tiny_config

    from embedllm.distributed import joined
    from embedllm.log import quiet_libraries
    from embedllm.training.runner import train

    quiet_libraries()
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with joined(timeout_seconds=120, even_alone=True) as rank:
        for job in jobs:
            folder = Path(job["folder"])
            try:
                with circumstances(job):
                    train(tiny_config(folder, *job["overrides"]), folder / "run")
                if job["disk"]:
                    # They go when the process ends.
                    files = Path(job["disk"]).rglob(f"rank{rank.rank}/*.swp")
                    sizes = {path.name: path.stat().st_size for path in files}
                    (folder / f"swapped-{rank.rank}.json").write_text(json.dumps(sizes))
            except Exception:
                # The test that asked for it says what was wrong; the other jobs go on.
                text = traceback.format_exc()
                (folder / f"{job['name']}-error-{rank.rank}.txt").write_text(text)


if __name__ == "__main__":
    main()
