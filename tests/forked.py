"""Scripts in processes of their own that begin with the libraries loaded.

Loading them takes longer than most of what tests run. One process for each test worker does it
once and is forked from then on; standard input, output, arguments, environment and exit code are
those of a process that was started anew.
"""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_CONTEXT = get_context("forkserver")
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
# What libraries do not read when they are loaded.
_FREE = {"PYTEST_CURRENT_TEST", "PYTHONPATH"}


class Forked:
    """A process that runs ``python WORDS``.

    Args:
        words: `-m`, a module and its arguments, or a script's path and its arguments.
        environment: All variables; as `can_fork` wants them.
        folder: Working directory.
    """

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], *, folder: Path
    ) -> None:
        self._words = list(words)
        self._said = TemporaryDirectory()
        self._process = forked(_run, self._words, dict(environment), folder, *self._paths)

    @property
    def _paths(self) -> tuple[Path, Path]:
        return Path(self._said.name, "out"), Path(self._said.name, "error")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Ends it without a word."""
        self._process.kill()

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Returns what came out; a process that takes longer is killed.

        Args:
            timeout: Seconds.

        Raises:
            subprocess.TimeoutExpired: It took longer.
        """
        self._process.join(timeout)
        is_late = self._process.exitcode is None
        if is_late:
            self._process.kill()
            self._process.join()
        out, error = (p.read_text(encoding="utf-8") if p.exists() else "" for p in self._paths)
        self._said.cleanup()
        if is_late:
            raise subprocess.TimeoutExpired(self._words, timeout, out, error)
        code = self._process.exitcode
        assert code is not None
        return subprocess.CompletedProcess(self._words, code, out, error)


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
    if words[0].startswith("-") and words[:2] != ("-m", "embedllm"):
        return False
    before = start_server()
    names = {*before, *environment} - _FREE
    return all(before.get(name) == environment.get(name) for name in names)


@cache
def start_server() -> Mapping[str, str]:
    """Loads the libraries, the first time; returns the variables of that process."""
    from tiny_runs import script_environment

    environment = script_environment()
    _CONTEXT.set_forkserver_preload(list(_LOADED))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return environment


def _call(run: Callable[..., None], *args: Any, **options: Any) -> None:
    # What is loaded stays; trainings ask for garbage collections, which would look through it.
    gc.freeze()
    run(*args, **options)


def _run(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, out: Path, error: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path, stream in ((out, sys.stdout), (error, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    try:
        if words[0] == "-m":
            sys.argv = ["", *words[2:]]
            sys.path[0:0] = [str(folder)]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(words)
            sys.path[0:0] = [str((folder / words[0]).parent)]
            runpy.run_path(words[0], run_name="__main__")
    finally:
        # `multiprocessing` ends its processes without them.
        atexit._run_exitfuncs()
