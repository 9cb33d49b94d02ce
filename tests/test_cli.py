"""`python -m embedllm`: the list of commands, unknown ones, and that each one is there."""

from __future__ import annotations

import importlib

import pytest
from tiny_runs import run_script

from embedllm import program
from embedllm.cli import COMMANDS, main
from embedllm.entry import CONF_DIR

_ASKED_TO_STOP_EARLY = """
import os, signal, sys
class Ask:
    def find_spec(self, name, path=None, target=None):
        if name == "hydra":
            os.kill(os.getpid(), signal.SIGUSR1)
sys.meta_path.insert(0, Ask())
from embedllm.cli import start
start("train")
"""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_commands_are_listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments or ["--help"])
    listed = capsys.readouterr().out
    assert all(name in listed and command.summary in listed for name, command in COMMANDS.items())


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serch"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "serch" in told
    assert "search" in told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_function_config_and_help(name: str) -> None:
    module, _, function = COMMANDS[name].task.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert (CONF_DIR / f"{name}.yaml").is_file()
    assert (CONF_DIR / "help" / f"{name}.yaml").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_describes_itself(name: str) -> None:
    ended = run_script("-m", "embedllm", name, "--help")
    assert ended.returncode == 0, ended.stderr
    assert program.shown(name) in ended.stdout


def test_an_unknown_key_is_refused() -> None:
    ended = run_script("-m", "embedllm", "results", "filter.modell=opt")
    assert ended.returncode == 2
    assert "did you mean model?" in ended.stderr


def test_a_job_may_be_asked_to_stop_while_it_loads() -> None:
    ended = run_script("-c", _ASKED_TO_STOP_EARLY, "run_name=early")
    assert ended.returncode == 75
    command = "python train.py run_name=early"
    assert ended.stderr == f"error: stopped by SIGUSR1; this goes on: {command}\n"
