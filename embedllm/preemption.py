"""A process that is asked to stop: by SLURM, by `scancel`, by a machine that is taken away.

SIGTERM and SIGUSR1 are such requests. Where nothing would be lost the process ends at once, by an
exception; a training finishes its optimizer step and writes a checkpoint first (`held`). Then a job
of SLURM is put back into the queue, and any other run says how it goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from embedllm.errors import PreemptedError
from embedllm.log import get_logger, process_number
from embedllm.ranks import slurm_job

_log = get_logger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM comes before SIGKILL everywhere; SIGUSR1 is what `sbatch --signal` is told to send."""

LAUNCHED: Final = "embedllm-"
"""How the run id begins that `launch.py` gives torch's elastic agent."""


class StopRequest:
    """The handler of the signals, which remembers the first of them. Later ones change nothing."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._answer: Callable[[signal.Signals], None] = _raise

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.signal is None:
            self.signal = signal.Signals(number)
            self._answer(self.signal)

    @contextmanager
    def answered_by(self, answer: Callable[[signal.Signals], None]) -> Iterator[None]:
        """Calls `answer` for a request inside the block, instead of ending the process."""
        before, self._answer = self._answer, answer
        try:
            yield
        finally:
            self._answer = before


def _raise(number: signal.Signals) -> None:
    raise PreemptedError(f"stopped by {number.name}")


def _wait(number: signal.Signals) -> None:
    """Leaves it to the block that holds the request; nothing else is safe in a handler there."""


@contextmanager
def stop_requests() -> Iterator[bool]:
    """Takes SIGTERM and SIGUSR1 for requests to stop; yields whether no block around does already.

    Raises:
        PreemptedError: One came, and nobody holds it (`held`).
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or _installed() is not None:
        yield False
        return
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _installed() -> StopRequest | None:
    handler = signal.getsignal(signal.SIGTERM)
    return handler if isinstance(handler, StopRequest) else None


def requested() -> signal.Signals | None:
    """Returns the signal by which this process was asked to stop."""
    request = _installed()
    return request.signal if request is not None else None


@contextmanager
def held(answer: Callable[[signal.Signals], None] = _wait) -> Iterator[None]:
    """Keeps a request from ending the process inside the block, which looks at `requested`.

    Args:
        answer: Called by the handler.
    """
    request = _installed()
    if request is None:
        # A training that was called from Python: signals do what they did.
        yield
        return
    with request.answered_by(answer):
        yield


def leave(error: PreemptedError, *, command: str) -> NoReturn:
    """Ends the process: puts the job back into SLURM's queue, or says how the run goes on.

    Rank 0 does it for all, or whoever launched it. The other ranks leave with 0: srun and torchrun
    end all processes when one ends otherwise, and rank 0 may not be ready.

    Args:
        error: What was caught.
        command: The command line that goes on.
    """
    if process_number() > 0:
        sys.exit(0)
    if os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCHED):
        sys.exit(PreemptedError.exit_code)
    if error.may_requeue and _requeue():
        sys.stderr.write(f"{error}; SLURM job {slurm_job()} is in the queue again and goes on\n")
    else:
        sys.stderr.write(f"error: {error}; this goes on: {command}\n")
    sys.stderr.flush()
    sys.exit(PreemptedError.exit_code)


def _requeue() -> bool:
    """Asks SLURM to start this job again; whether it will."""
    job = slurm_job()
    if job is None:
        return False
    try:
        # A job that somebody cancelled must not come back; one whose time is over may.
        state = _run("squeue", "--noheader", f"--jobs={job}", "--format=%T %r")
        if state.split() not in (["RUNNING", "None"], ["COMPLETING", "TimeLimit"]):
            _log.warning("SLURM job %s is %s and stays so", job, state.strip())
            return False
        _run("scontrol", "requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        _log.warning("SLURM job %s is not put back into the queue: %s", job, said)
        return False
    return True


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
