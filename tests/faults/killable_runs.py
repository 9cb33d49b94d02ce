"""`train.py` in processes that are killed at chosen moments: forked, so that none imports anew.

A process says on a shared page where it is. Whoever wants to kill it waits for a moment there.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import runpy
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import pytest
from forked import forked
from processes import free_port, rank_variables
from tiny_runs import REPOSITORY

PHASES: Final = ("start", "step", "evaluation", "checkpoint", "adapter")
# Long enough to be killed many times; every dev score calls its adapter the best.
RUN: Final = (
    "debug=tiny",
    "run_name=run",
    "trainer.accelerator=cpu",
    "data.max_examples=256",
    "trainer.max_epochs=2",
    "trainer.max_steps=48",
    "trainer.checkpoint_every_n_steps=3",
    "evaluation.dev_every_n_steps=4",
)
_PAGE: Final = struct.Struct("<3i")
_DEADLINE_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Pause:
    """Where a process waits until it is told to go on: at a phase, when so many steps are made."""

    phase: str
    step: int = 0


class Page:
    """Where a process is: a phase, how many phases of this kind it began, steps it has made.

    Args:
        path: The shared file.
        pause: Where the process waits for a file `go` beside it.
    """

    def __init__(self, path: Path, pause: Pause | None = None) -> None:
        self._pause = pause
        self._go = path.with_name("go")
        if not path.exists():
            path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._counts = dict.fromkeys(range(len(PHASES)), 0)

    def write(self, phase: str | None = None, *, step: int | None = None) -> None:
        """Notes what begins, or how many steps are made."""
        now, count, done = _PAGE.unpack_from(self._memory)
        if phase is not None:
            now = PHASES.index(phase)
            self._counts[now] += 1
            count = self._counts[now]
        done = done if step is None else step
        _PAGE.pack_into(self._memory, 0, now, count, done)
        pause = self._pause
        if phase is not None and pause and phase == pause.phase and done >= pause.step:
            while not self._go.exists():
                time.sleep(0.01)

    def has_paused(self, pause: Pause) -> bool:
        """Whether the process has come to a pause."""
        phase, _, step = self.read()
        return phase == pause.phase and step >= pause.step

    def go_on(self) -> None:
        """Ends the pause."""
        self._go.touch()

    def read(self) -> tuple[str, int, int]:
        """Returns phase, how many of this kind began, and steps made."""
        phase, count, step = _PAGE.unpack_from(self._memory)
        return PHASES[phase], count, step


def run_train_py(
    arguments: Sequence[str],
    environment: dict[str, str],
    folder: Path,
    name: str,
    *,
    pause: Pause | None = None,
) -> None:
    """What the process does: `python train.py ARGUMENTS`, saying where it is."""
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    with (folder / f"{name}.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _mark_phases(Page(folder / f"{name}.page", pause))
    sys.argv = ["train.py", *arguments]
    runpy.run_path("train.py", run_name="__main__")


def _mark_phases(page: Page) -> None:
    import pytorch_lightning as pl

    from embedllm.training import fit, runner
    from embedllm.training.callbacks.dev_score import DevScore
    from embedllm.training.callbacks.step_seed import StepSeed

    patch = pytest.MonkeyPatch()

    def mark(owner: Any, function: str, phase: str) -> None:
        original = getattr(owner, function)

        def marked(*args: Any, **kwargs: Any) -> Any:
            page.write(phase)
            result = original(*args, **kwargs)
            page.write("step")
            return result

        patch.setattr(owner, function, marked)

    start = StepSeed.on_train_batch_start

    def started(self: Any, trainer: Any, *rest: Any) -> None:
        page.write("step", step=trainer.global_step)
        start(self, trainer, *rest)

    score = DevScore._score

    def rising(self: Any, step: int, total: int) -> float:
        page.write(step=step)
        score(self, step, total)
        return float(step)

    save = pl.Trainer.save_checkpoint

    # All ranks come by here; rank 0 writes.
    def saving(self: pl.Trainer, *args: Any, **options: Any) -> None:
        page.write("checkpoint", step=self.global_step)
        save(self, *args, **options)
        page.write("step")

    patch.setattr(pl.Trainer, "save_checkpoint", saving)
    patch.setattr(StepSeed, "on_train_batch_start", started)
    patch.setattr(DevScore, "_score", rising)
    mark(DevScore, "_score", "evaluation")
    mark(runner, "score_and_record", "evaluation")
    mark(fit, "save_adapter", "adapter")


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds into the n-th phase of a kind."""

    phase: str
    number: int
    seconds: float
    rank: int = 0


@dataclass(frozen=True)
class Death:
    """What a kill found and left.

    Attributes:
        phase: What the killed process was doing.
        steps_made: Optimizer steps it had made.
        checkpoint: Step of the newest checkpoint.
        codes: Exit codes of all ranks.
    """

    phase: str
    steps_made: int
    checkpoint: int
    codes: list[int]

    @property
    def steps_lost(self) -> int:
        return max(0, self.steps_made - self.checkpoint)


class Starter:
    """Starts runs in forks of one process that has imported everything."""

    def start(
        self, folder: Path, *overrides: str, num_ranks: int = 1, pause: Pause | None = None
    ) -> list[tuple[ForkServerProcess, Page]]:
        """Starts the ranks of `train.py RUN OVERRIDES` and returns them with their pages.

        Args:
            folder: Gets the folders of outputs, results and caches, and a log for each rank.
            overrides: What they change in the run.
            num_ranks: How many.
            pause: Where they wait to be told to go on.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go").unlink(missing_ok=True)
        paths = [f"paths.{n}_dir={folder / n}" for n in ("output", "results", "cache")]
        started = []
        port = free_port()
        for rank in range(num_ranks):
            name = f"rank-{rank}"
            (folder / f"{name}.page").write_bytes(bytes(mmap.PAGESIZE))
            environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            if num_ranks > 1:
                environment |= rank_variables(rank, num_ranks, port)
            arguments = ([*RUN, *paths, *overrides], environment, folder, name)
            process = forked(run_train_py, *arguments, pause=pause)
            started.append((process, Page(folder / f"{name}.page")))
        return started

    def finish(self, folder: Path, *overrides: str, num_ranks: int = 1) -> Path:
        """Runs or resumes to the end and returns the run folder."""
        for process, _ in self.start(folder, *overrides, num_ranks=num_ranks):
            process.join(_DEADLINE_SECONDS)
            assert process.exitcode == 0, (folder / "rank-0.log").read_text()[-3000:]
        return folder / "output" / "run"

    def kill(
        self, folder: Path, moment: Moment, *overrides: str, num_ranks: int = 1
    ) -> Death | None:
        """Runs or resumes until a moment, and kills one rank; None when the run ended before."""
        ranks = self.start(folder, *overrides, num_ranks=num_ranks)
        process, page = ranks[moment.rank]
        try:
            if not wait_until(lambda: _has_come(page, moment), process):
                for other, _ in ranks:
                    other.join(_DEADLINE_SECONDS)
                assert [other.exitcode for other, _ in ranks] == [0] * num_ranks
                return None
            time.sleep(moment.seconds)
            # A process that has ended by itself in the meantime was not killed.
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGKILL)
            for other, _ in ranks:
                other.join(_DEADLINE_SECONDS)
            if process.exitcode == 0:
                return None
        finally:
            for other, _ in ranks:
                if other.is_alive():
                    other.kill()
        phase, _, step = page.read()
        codes = [other.exitcode or 0 for other, _ in ranks]
        return Death(phase, step, newest_step(folder), codes)


def wait_until(condition: Callable[[], bool], process: ForkServerProcess) -> bool:
    """Whether the condition came true before the process ended."""
    end = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if not process.is_alive():
            return False
        assert time.monotonic() < end
        time.sleep(0.0005)
    return True


def _has_come(page: Page, moment: Moment) -> bool:
    phase, count, _ = page.read()
    # Several may have begun between two looks.
    return phase == moment.phase and count >= moment.number


def newest_step(folder: Path) -> int:
    """Returns the step of the newest checkpoint of a run, 0 without one."""
    names = (path.name for path in (folder / "output" / "run" / "checkpoints").glob("*.ckpt"))
    return max((int(re.findall(r"\d+", name)[0]) for name in names), default=0)


def random_moments(seed: int, count: int, *, num_ranks: int = 1) -> list[Moment]:
    """Returns moments in steps, in evaluation and in the writing of checkpoints, in turns."""
    draw = random.Random(seed)
    longest = {"step": 0.02, "evaluation": 0.1, "checkpoint": 0.006, "adapter": 0.02}
    moments = []
    for i in range(count):
        phase = ("step", "evaluation", "checkpoint", "step", "adapter")[i % 5]
        number = draw.randint(1, 12 if phase == "step" else 3)
        seconds = draw.uniform(0, longest[phase])
        moments.append(Moment(phase, number, seconds, draw.randrange(num_ranks)))
    return moments
