"""The commands of `python -m embedllm`: everything that is not train.py or evaluate.py."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from embedllm.errors import ConfigError


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
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(f"{usage()}\n")
        return
    if name not in COMMANDS:
        sys.stderr.write(f"error: there is no command {name!r}\n{usage()}\n")
        sys.exit(ConfigError.exit_code)
    from embedllm.entry import run

    # Hydra reads the overrides from here.
    sys.argv = [f"embedllm {name}", *rest]
    run(name, _load(COMMANDS[name].task))


def usage() -> str:
    """Returns the list of commands."""
    lines = [f"  {name:16}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m embedllm COMMAND [key=value ...]",
            *lines,
            "python -m embedllm COMMAND --help describes one. See also train.py and evaluate.py.",
        ]
    )


def _load(task: str) -> Callable[[Any, Any], None]:
    """Returns a function that imports the task only when it is called, after composing."""

    def call(config: Any, invocation: Any) -> None:
        module, _, function = task.partition(":")
        getattr(importlib.import_module(module), function)(config, invocation)

    return call
