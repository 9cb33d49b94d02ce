"""How the commands speak: results on stdout, the rest on stderr, JSON, quiet, colours, codes."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from documents import ROOT, documented, documented_keys
from forked import Forked
from tiny_runs import REPOSITORY, run_script, script_environment

from embedllm import cli
from embedllm.cli import COMMANDS, usage
from embedllm.entry import CONF_DIR
from embedllm.errors import EXIT_CODES
from embedllm.log import quiet_loggers

PAGE = "docs/terminal.md"
ESCAPE = "\x1b"
# A plan that does not look at all ways of training.
_ONE_WAY = ("strategy=single", "model.quantization=none", "trainer.activation_checkpointing=none")


def _places(folder: Path) -> list[str]:
    return [f"paths.{name}_dir={folder}/{name}" for name in ("output", "results", "cache")]


def _call(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with its folders below `folder`."""
    places = _places(folder)
    if "results" in arguments or "report" in arguments:
        places = places[1:2]
    return run_script(*arguments, *places, environment=script_environment(**changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a tiny run, trained with `srun` on the PATH, and the JSON that it gave."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "bin").mkdir()
    srun = folder / "bin" / "srun"
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    shown = "python train.py debug=tiny console.quiet=true console.format=json"
    path = f"{folder}/bin:{os.environ['PATH']}"
    ended = _call(folder, *documented(shown, page=PAGE)[1:], "run_name=first", PATH=path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("\n") == 1
    return folder, json.loads(ended.stdout)


def test_a_quiet_training_says_nothing_but_its_result(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, record = trained
    assert record.keys() == documented_keys("train.py")
    assert Path(record["adapter"]).is_dir()
    assert record["after"]["tasks"]["sample-test"] == record["after"]["averages"]["sts"]
    log = (folder / "output" / "first" / "train.log").read_text()
    assert "step 8/8" in log


def test_a_training_prints_its_scores_and_the_gain(
    trained: tuple[Path, dict[str, Any]],
    entry_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, record = trained
    monkeypatch.setattr(sys, "argv", sys.argv)
    # It is done, so nothing is trained or scored again.
    cli.main(["train", "debug=tiny", "run_name=first", *_places(folder)])
    rows = re.findall(
        r"^ *(before|after|gain) +([-+]?[\d.]+)", capsys.readouterr().out, re.MULTILINE
    )
    before, after = (record[name]["averages"]["sts"] for name in ("before", "after"))
    expected = {"before": before, "after": after, "gain": after - before}
    assert [name for name, _ in rows] == list(expected)
    assert {name: float(value) for name, value in rows} == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize("command", ["evaluate.py", "-m embedllm results"])
def test_results_are_json_for_scripts(command: str, trained: tuple[Path, dict[str, Any]]) -> None:
    words = [*command.split(), *(["model=tiny"] if command == "evaluate.py" else [])]
    ended = _call(trained[0], *words, "console.format=json", "console.quiet=true")
    assert (ended.returncode, ended.stderr) == (0, "")
    [line] = ended.stdout.splitlines()
    record = json.loads(line)
    if command == "evaluate.py":
        assert record.keys() == documented_keys(command)
    else:
        assert [row["run_name"] for row in record].count("first") == 2


def test_deepspeed_logs_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    # As its own module makes it when something imports it.
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("DeepSpeed")
    logger.addHandler(handler)
    try:
        quiet_loggers()
        logger.warning("Setting accelerator to CPU. If you have GPU")
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0].endswith("something else")


def test_pipes_get_plain_text_that_is_not_cut(trained: tuple[Path, dict[str, Any]]) -> None:
    ended = _call(trained[0], "-m", "embedllm", "plan", "model=tiny", *_ONE_WAY, FORCE_COLOR="")
    assert ended.returncode == 0
    assert ESCAPE not in ended.stdout + ended.stderr
    assert "\N{HORIZONTAL ELLIPSIS}" not in ended.stdout
    assert "strategy=single" in ended.stdout
    assert "error" not in ended.stderr


def _on_a_terminal(*arguments: str, **changes: str) -> str:
    """Returns what a command writes to a terminal, both streams together."""
    master, slave = pty.openpty()
    environment = script_environment(TERM="xterm-256color", COLUMNS="200", **changes)
    terminal = Path(os.ttyname(slave))
    process = Forked(arguments, environment, folder=REPOSITORY, terminal=terminal)
    written = b""
    is_over = False
    while not is_over:
        is_over = not process.is_running
        while select.select([master], [], [], 0.05)[0]:
            written += os.read(master, 65536)
    os.close(slave)
    os.close(master)
    assert process.wait(60).returncode == 0
    return written.decode()


def test_no_color_is_respected(trained: tuple[Path, dict[str, Any]]) -> None:
    call = ("-m", "embedllm", "encode", "model=tiny", f"input={trained[0]}/long.txt")
    (trained[0] / "long.txt").write_text("A dog runs.\nA cat.\n")
    colour = re.compile(r"\x1b\[[\d;]*3[0-9]")
    with_colours = _on_a_terminal(*call, f"output={trained[0]}/o1")
    assert colour.search(with_colours)
    without = _on_a_terminal(*call, f"output={trained[0]}/o2", NO_COLOR="1")
    assert not colour.search(without)
    assert "2 vectors of 32" in without


# --- Exit codes -----------------------------------------------------------------------------------


def test_exit_codes_are_documented_in_one_place() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    table = {int(c): m for c, m in re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)}
    assert table == EXIT_CODES
    assert all(str(code) in usage() and meaning in usage() for code, meaning in EXIT_CODES.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_codes_that_there_are(name: str) -> None:
    text = (CONF_DIR / "help" / f"{name}.yaml").read_text(encoding="utf-8")
    [said] = re.findall(r"Exit codes: (.*?)\.\n", text, re.DOTALL)
    codes = [int(c) for c in re.findall(r"(?:^|, )\s*(\d+) ", said.replace("\n", " "))]
    assert set(codes) <= EXIT_CODES.keys()
    assert {0, 1, 2, 130} <= set(codes)


@pytest.mark.parametrize(
    ("command", "mistake", "part"),
    [
        ("train", "trainer.max_step=3", "did you mean max_steps?"),
        ("evaluate", "adapter_path=/nowhere", "is no adapter folder"),
        ("search", "evaluation=sample evaluation.tasks=[]", "evaluation.tasks=[] must be one task"),
        ("demonstrations", "source=nothing", "source='nothing' is not known"),
        ("layers", "model.layer=1", "model.layer"),
        ("encode", "input=/nowhere.txt output=/tmp/none", "/nowhere.txt"),
        ("profile", "profile.num_steps=0", "num_steps=0 is out of range"),
        ("plan", "hardware=a1000", "hardware=a1000 is not known"),
        ("results", "paths.results_dir=/nowhere", "/nowhere"),
        ("report", "paths.results_dir=/nowhere", "/nowhere"),
        ("export", "adapter=/nowhere output=/tmp/none", "there is no folder /nowhere"),
        ("demo", "port=99999", "port=99999 is out of range"),
        ("demo", "host=no.such.host.invalid", "is no address of this machine"),
        ("results", "console.format=yaml", "allowed: text, json"),
        ("plan", "console.quiet=perhaps", "console.quiet"),
    ],
)
def test_mistakes_are_one_message(
    command: str,
    mistake: str,
    part: str,
    entry_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    # The demo's library does more than others when it is imported.
    monkeypatch.setitem(sys.modules, "nicegui", ModuleType("nicegui"))
    quiet = [] if "console.quiet" in mistake else ["console.quiet=true"]
    with pytest.raises(SystemExit) as ended:
        cli.main([command, *mistake.split(), *quiet])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert part in said.err


# --- Completion -----------------------------------------------------------------------------------


def _complete(*lines: str) -> list[list[str]]:
    """Returns what bash offers behind each line."""
    documented('eval "$(python train.py -sc install=bash)"', page=PAGE)
    script = 'eval "$(python train.py -sc install=bash)"\n'
    for line in lines:
        script += f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMPREPLY=()\n"
        script += '_embedllm_completion; echo "${COMPREPLY[*]}"\n'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=REPOSITORY,
        env=script_environment(PATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split() for line in ended.stdout.splitlines()]


def test_bash_completes_every_way_to_call_the_program() -> None:
    found = _complete(
        "python train.py model=opt-1",
        "python train.py debug=tiny trainer.max_s",
        "python -m embedllm pl",
        "python -m embedllm plan hardware=a100",
        "python  -m embedllm results filter.mo",
        "python other.py model=opt-1",
    )
    assert found == [
        ["model=opt-1.3b", "model=opt-125m", "model=opt-13b"],
        ["trainer.max_steps="],
        ["plan"],
        ["hardware=a100-40gb", "hardware=a100-80gb"],
        ["filter.model="],
        [],
    ]
