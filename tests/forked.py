"""Scripts in processes of their own that begin with the libraries loaded.

Loading them takes longer than most of what tests run. One process for each test worker does it
once and is forked from then on; standard output, arguments, environment, signals and exit code are
those of a process that was started anew.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import os
import runpy
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_CONTEXT = get_context("forkserver")
_AT_START = dict(os.environ)
# The server knows installed modules alone, and is silent about others.
_LOADED = (
    "embedllm.entry",
    "embedllm.evaluation.command",
    "embedllm.training.command",
    "embedllm.training.preflight",
    "embedllm.training.runner",
    "peft",
    "pytest",
    "sklearn.linear_model",
    "torch.distributed.tensor",
    "transformers.models.opt.modeling_opt",
)
# What is read when Python starts or when these are loaded. An entry point sets the time-out itself,
# to the library's own.
_READ_EARLY = ("HF_", "TRANSFORMERS_", "HOME", "XDG_", "TORCH_", "CUDA_", "OMP_", "MKL_")
_READ_EARLY += ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_")
_SET_BY_ENTRY = "HF_HUB_ETAG_TIMEOUT"


class Forked:
    """A process that runs ``python WORDS``; the libraries have read their variables before.

    Args:
        words: `-m`, a module and its arguments, or `-c`, code and its arguments, or a script's path
            and its arguments.
        environment: All variables; those that libraries read when they are loaded as they were
            when the tests began.
        folder: Working directory.
        terminal: What it writes to, both streams together; None to keep what it writes.
        is_merged: Whether what it writes as errors is kept with its output.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path,
        terminal: Path | None = None,
        is_merged: bool = False,
    ) -> None:
        assert _has_variables_of_server(environment)
        self._words = list(words)
        self._said = TemporaryDirectory()
        self._out = terminal or self._create("out")
        self._error = self._out if terminal or is_merged else self._create("error")
        streams = (self._out, self._error)
        self._process = forked(_run, self._words, dict(environment), folder, *streams)
        self._ended: subprocess.CompletedProcess[str] | None = None
        # Of a test that failed; the test run would wait for it at its end.
        weakref.finalize(self, self._process.kill)

    def _create(self, name: str) -> Path:
        path = Path(self._said.name, name)
        path.touch()
        return path

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal; nothing where it has ended."""
        if self.is_running:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)

    def lines(self) -> Iterator[str]:
        """Yields the lines of its output as they come, until it ends."""
        with self._out.open(encoding="utf-8") as file:
            rest = ""
            while True:
                is_over = not self.is_running
                *whole, rest = (rest + file.read()).split("\n")
                yield from (f"{line}\n" for line in whole)
                if is_over:
                    return
                time.sleep(0.01)

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Returns what came out; a process that takes longer is killed.

        Args:
            timeout: Seconds.

        Raises:
            subprocess.TimeoutExpired: It took longer.
        """
        if self._ended is None:
            self._process.join(timeout)
            is_late = self._process.exitcode is None
            if is_late:
                # Where each of its threads is, at the end of what it said.
                self.send_signal(signal.SIGUSR2)
                time.sleep(1)
                self._process.kill()
                self._process.join()
            streams = (self._out, self._error)
            out, error = (p.read_text(encoding="utf-8") if p.is_file() else "" for p in streams)
            if is_late:
                sys.stderr.write(error[-10_000:])
                raise subprocess.TimeoutExpired(self._words, timeout, out, error)
            code = self._process.exitcode
            assert code is not None
            self._ended = subprocess.CompletedProcess(self._words, code, out, error)
            self._said.cleanup()
        return self._ended


def forked(run: Callable[..., None], *args: Any, **options: Any) -> ForkServerProcess:
    """Returns a process that calls the function with the libraries loaded, already started."""
    start_server()
    process = _CONTEXT.Process(target=_call, args=(run, *args), kwargs=options)
    process.start()
    return process


def can_fork(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether `Forked` is what `python WORDS` would be.

    Options of the interpreter and variables that libraries read when they are loaded need a
    process that was started anew.
    """
    is_option = words[0].startswith("-") and words[:2] != ("-m", "embedllm")
    return not is_option and _has_variables_of_server(environment)


def _has_variables_of_server(environment: Mapping[str, str]) -> bool:
    server = start_server()
    names = {name for name in {*server, *environment} if name.startswith(_READ_EARLY)}
    names.discard(_SET_BY_ENTRY)
    return all(server.get(name) == environment.get(name) for name in names)


@cache
def start_server() -> Mapping[str, str]:
    """Loads the libraries, the first time; returns the variables of that process."""
    from tiny_runs import script_environment

    _CONTEXT.set_forkserver_preload(list(_LOADED))
    with pytest.MonkeyPatch.context() as patch:
        # The test that comes first may have changed some.
        for name in os.environ.keys() - _AT_START.keys():
            patch.delenv(name)
        for name, value in _AT_START.items():
            patch.setenv(name, value)
        environment = script_environment()
        for name, value in environment.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return environment


def _call(run: Callable[..., None], *args: Any, **options: Any) -> None:
    # What is loaded stays; trainings ask for garbage collections, which would look through it.
    gc.freeze()
    # A shell that runs the tests in the background ignores Ctrl-C, and whatever they start too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(*args, **options)


def _run(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, out: Path, error: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path, stream in ((out, sys.stdout), (error, sys.stderr)):
        # Where both go to one file, each writes behind the other.
        with path.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), stream.fileno())
    faulthandler.register(signal.SIGUSR2)
    kind, *rest = words
    try:
        if kind == "-m":
            sys.argv = ["", *rest[1:]]
            sys.path.insert(0, str(folder))
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            sys.path.insert(0, str(folder))
            exec(rest[0], {"__name__": "__main__"})
        else:
            sys.argv = list(words)
            sys.path.insert(0, str((folder / kind).parent))
            runpy.run_path(kind, run_name="__main__")
    finally:
        # `multiprocessing` ends its processes without them.
        atexit._run_exitfuncs()
