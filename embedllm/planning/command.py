"""What `python -m embedllm plan` does: plan, print the tables, write the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedllm.config import PlanConfig
from embedllm.console import print_line
from embedllm.errors import ConfigError
from embedllm.files import write_json
from embedllm.invocation import Invocation
from embedllm.log import quiet_libraries
from embedllm.planning.answers import plan
from embedllm.planning.hardware import resolve_hardware
from embedllm.planning.models import plan_models
from embedllm.planning.report import (
    hardware_to_plain,
    models_to_plain,
    plan_to_plain,
    print_models,
    print_plan,
)
from embedllm.planning.train_command import fixed_choices, train_arguments
from embedllm.versions import git_revision, library_versions

if TYPE_CHECKING:
    from rich.console import Console

_COMMAND: Final = "python -m embedllm plan"

# A plan as plain values, and what prints it.
_Answer = tuple[dict[str, Any], Callable[["Console"], None]]


def run_plan(config: PlanConfig, invocation: Invocation) -> None:
    """Prints how a model can be trained on some hardware, or which models can.

    Args:
        config: The checked configuration.
        invocation: How the command was called; what it says of the training goes into the command
            that trains.

    Raises:
        EmbedllmError: Whatever a user can mend.
    """
    quiet_libraries()
    git_revision()
    output = None if config.plan.output is None else Path(config.plan.output).expanduser()
    if output is not None and output.is_dir():
        raise ConfigError(f"plan.output={output} is a folder; it must be a file")
    answer = _models if config.plan.question == "models" else _strategy
    record, draw = answer(config, invocation)
    if output is not None:
        origin = {
            "config": asdict(config),
            "command": [*_COMMAND.split(), *invocation.overrides],
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": library_versions(),
            "git_revision": git_revision(),
        }
        write_json(output, {**record, **origin})

    def draw_all(console: Console) -> None:
        draw(console)
        if output is not None:
            print_line(console, f"output: {output}")

    invocation.show({**record, **({"output": str(output)} if output else {})}, draw_all)


def _strategy(config: PlanConfig, invocation: Invocation) -> _Answer:
    made = plan(
        config,
        fixed=fixed_choices(invocation.overrides),
        arguments=train_arguments(invocation.overrides, invocation.choices),
    )
    return plan_to_plain(made), partial(print_plan, plan=made)


def _models(config: PlanConfig, invocation: Invocation) -> _Answer:
    hardware = resolve_hardware(config.hardware, devices=config.trainer.devices)
    answers = plan_models(
        config, invocation.conf_dir / "model", fixed=fixed_choices(invocation.overrides)
    )
    world_size = config.trainer.devices * config.trainer.num_nodes
    draw = partial(print_models, answers=answers, hardware=hardware, world_size=world_size)
    record = {
        "hardware": hardware_to_plain(hardware),
        "world_size": world_size,
        "models": models_to_plain(answers),
    }
    return record, draw
