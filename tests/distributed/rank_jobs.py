"""Trainings in several real processes, and what they are compared with."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from forked import Forked
from processes import free_port, rank_variables
from tiny_runs import REPOSITORY, read_weights, script_environment
from torch import Tensor

WORKER = Path(__file__).with_name("rank_worker.py")
STRATEGIES = ("ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fsdp2")

# Adam with so large an epsilon is all but plain gradient descent: a gradient that is k times too
# large moves the weights k times as far, which the usual epsilon hides.
EXACT = (
    "evaluation=none",
    "trainer.adam_epsilon=1.0",
    "trainer.learning_rate=0.5",
    "trainer.gradient_clip_norm=0",
    "trainer.lr_schedule=constant_with_warmup",
    "trainer.warmup_steps=0",
)


TWO_NEGATIVES = (
    "data.source=path",
    "data.columns.anchor=a",
    "data.columns.positive=p",
    "data.columns.negatives=[n1,n2]",
    # Without it the loss would not notice whose hard negative is whose.
    "loss.hard_negative_weight=0.7",
)


def write_two_negatives(path: Path) -> str:
    """Writes examples with two hard negatives for each anchor; returns the override with them."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "p", "n1", "n2"])
        for i in range(30):
            rows.writerow([f"anchor {i}", f"positive {i * i}", f"not {i}", f"never {i} {i % 3}"])
    return f"data.path={path}"


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: Names it.
        overrides: What it changes in `debug=tiny`.
        folder: Name of its output folder, where several jobs share one; default the job's name.
        die_at: After this step all ranks die; None to live.
        killed_at: After this step the last rank is killed, and with it all others; None to live.
        asked_at: A batch, a rank and the name of a signal: in that batch that rank is asked to
            stop, and all do; None to let it run.
        mistake: Name of a mistake in `rank_worker.py` that it makes.
        poisoned: Steps whose gradients are NaN on the last rank.
        disk: Folder that it offloads to; what lies there when it is done is noted.
    """

    name: str
    overrides: Sequence[str] = field(default=())
    folder: str | None = None
    die_at: int | None = None
    killed_at: int | None = None
    asked_at: tuple[int, int, str] | None = None
    mistake: str | None = None
    poisoned: Sequence[int] = field(default=())
    disk: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a training left.

    Attributes:
        job: The training.
        folder: Its output folder.
    """

    job: Job
    folder: Path

    @property
    def errors(self) -> list[str]:
        """What the ranks that failed raised."""
        paths = sorted(self.folder.glob(f"{self.job.name}-error-*.txt"))
        return [path.read_text(encoding="utf-8") for path in paths]

    @property
    def run(self) -> Path:
        """The run folder; fails with what went wrong when something did."""
        assert not self.errors, self.errors[0][-3000:]
        return self.folder / "run"

    @property
    def weights(self) -> dict[str, Tensor]:
        """The saved weights of the adapter, or of the model."""
        return read_weights(self.run / "adapter")


def run_jobs(
    factory: pytest.TempPathFactory, name: str, jobs: Sequence[Job], *, num_processes: int = 2
) -> Mapping[str, Outcome]:
    """Runs the trainings one after another in the same processes; once, whoever asks first.

    Args:
        factory: Gives the folder; workers of one test run share it.
        name: Names the folder.
        jobs: The trainings; each gets a folder there.
        num_processes: How many ranks.
    """
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"ranks-{name}"
    root.mkdir(exist_ok=True)
    outcomes = {job.name: Outcome(job, root / (job.folder or job.name)) for job in jobs}
    with FileLock(root / ".lock"):
        if not (root / "done").exists():
            _start(root, list(outcomes.values()), num_processes)
            (root / "done").touch()
    return outcomes


def _start(root: Path, outcomes: Sequence[Outcome], num_processes: int) -> None:
    for outcome in outcomes:
        outcome.folder.mkdir(exist_ok=True)
    path = root / "jobs.json"
    entries = [{**asdict(o.job), "folder": str(o.folder)} for o in outcomes]
    path.write_text(json.dumps(entries), encoding="utf-8")
    port = free_port()
    ranks = []
    for rank in range(num_processes):
        environment = script_environment(**rank_variables(rank, num_processes, port))
        ranks.append(Forked((str(WORKER), str(path)), environment, folder=REPOSITORY))
    ended = [rank.wait(2400) for rank in ranks]
    is_killed = any(outcome.job.killed_at for outcome in outcomes)
    said = "\n".join(one.stdout[-2000:] + one.stderr[-2000:] for one in ended)
    assert any(one.returncode != 0 for one in ended) == is_killed, said


def difference(
    left: Mapping[str, Tensor], right: Mapping[str, Tensor], *, start: Mapping[str, Tensor]
) -> float:
    """Returns the distance of two trained sets of weights, relative to how far they moved.

    Args:
        left: Weights by name.
        right: The same of the training that is right.
        start: The same before any step.
    """
    assert left.keys() == right.keys() == start.keys()
    away, apart = (
        torch.cat([(a[n].double() - right[n].double()).flatten() for n in right]).norm()
        for a in (start, left)
    )
    assert away > 1e-3
    return float(apart / away)
