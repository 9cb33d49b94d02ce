"""The commands of `embedllm`, which is `python -m embedllm` too."""

from __future__ import annotations

import gc
import importlib
import shlex
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from embedllm import program
from embedllm.errors import EXIT_CODES, ConfigError, PreemptedError
from embedllm.preemption import leave, stop_requests
from embedllm.ranks import left_at_once


class Command(NamedTuple):
    """One command.

    Attributes:
        task: `module:function`, imported when the command runs; it gets the typed config and the
            `Invocation`. The config of a command has the command's name.
        summary: One line for the list of commands.
    """

    task: str
    summary: str


COMMANDS: dict[str, Command] = {
    "train": Command(
        "embedllm.training.command:run_train", "fine-tune a model, scored before and after"
    ),
    "evaluate": Command("embedllm.evaluation.command:run_evaluate", "score a model or an adapter"),
    "search": Command(
        "embedllm.demonstrations.search_command:run_search",
        "find the best demonstration for a model",
    ),
    "demonstrations": Command(
        "embedllm.demonstrations.build_command:run_build",
        "build a new set of demonstrations",
    ),
    "layers": Command(
        "embedllm.evaluation.layers:run_layers", "score the vectors of every layer of a model"
    ),
    "encode": Command(
        "embedllm.encoding.command:run_encode", "write the vectors of files of any size"
    ),
    "export": Command(
        "embedllm.export.command:run_export", "write an adapter as a folder that others load"
    ),
    "profile": Command(
        "embedllm.profiling.command:run_profile", "show where a step's time and memory go"
    ),
    "plan": Command(
        "embedllm.planning.command:run_plan", "say what fits some hardware, and how to train it"
    ),
    "results": Command(
        "embedllm.evaluation.results_command:run_results", "list and filter the results store"
    ),
    "report": Command(
        "embedllm.report.command:run_report",
        "make the page of all results, beside the published numbers",
    ),
    "demo": Command(
        "embedllm.demo.command:run_demo", "open a page to compare, search and look inside a model"
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Runs the command that the first argument names; without one, lists the commands.

    Args:
        arguments: The command line without the program's name; default that of the process.

    Leaves the process with exit code 2 for an unknown command, and as `entry.run` does otherwise.
    """
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if _installed_completion(given):
        return
    name, *rest = given
    if name in ("-h", "--help", "help"):
        sys.stdout.write(f"{usage()}\n")
        return
    if name not in COMMANDS:
        sys.stderr.write(f"error: there is no command {name!r}\n{usage()}\n")
        sys.exit(ConfigError.exit_code)
    # Hydra reads the overrides from here.
    sys.argv = [f"embedllm {name}", *rest]
    start(name)


def run_process() -> None:
    """What `embedllm` in the shell is: `main`, for a process of its own."""
    with left_at_once():
        main()


def start(name: str) -> None:
    """Runs a command with the overrides of this process, as `entry.run` says.

    Args:
        name: One of `COMMANDS`.
    """
    if _installed_completion(sys.argv[1:]):
        return
    # Imports make objects by the hundred thousand and no garbage; looking for some as often as
    # Python does by itself takes a tenth of a short run's time.
    gc.set_threshold(10_000, 10, 10)
    # Hydra takes a while to import, and a job may be asked to stop meanwhile.
    with stop_requests():
        try:
            from embedllm.entry import run

            run(name, _load(COMMANDS[name].task))
        except PreemptedError as error:
            leave(error, command=shlex.join([*program.words(name), *sys.argv[1:]]))


def usage() -> str:
    """Returns the list of commands."""
    lines = [f"  {name:16}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {program.shown('COMMAND')} [key=value ...]",
            *lines,
            f"{program.shown('COMMAND')} --help describes one.",
            "All take console.format=json (the result as JSON on stdout) and console.quiet=true.",
            "Exit codes:",
            *(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES.items()),
        ]
    )


def _installed_completion(arguments: list[str]) -> bool:
    """Prints the script of shell completion where it is asked for, and returns whether it is."""
    from embedllm.completion import bash_script

    script = bash_script(arguments, COMMANDS)
    if script is not None:
        sys.stdout.write(script)
    return script is not None


def _load(task: str) -> Callable[[Any, Any], Any]:
    """Returns a function that imports the task only when it is called, after composing."""

    def call(config: Any, invocation: Any) -> Any:
        module, _, function = task.partition(":")
        return getattr(importlib.import_module(module), function)(config, invocation)

    return call
