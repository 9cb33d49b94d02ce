"""Names of runs make folders, ids and artifacts: none leads out of its folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from tiny_runs import REPOSITORY

from embedllm import cli

BAD = {
    "parent": "../x",
    "absolute": "/tmp/embedllm-escaped",
    "deep": "a/../../x",
    "dots": "..",
    "empty": "''",
    "long": "x" * 201,
    "line": '"a\\nb"',
    "control": '"a\\tb"',
}
TOO_LONG = 255


def _call(command: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        if command[0].endswith(".py"):
            runpy.run_path(str(REPOSITORY / command[0]), run_name="__main__")
        else:
            cli.main(command)
    return int(stop.value.code or 0)


@pytest.mark.usefixtures("entry_process")
@pytest.mark.parametrize("command", ["train.py", "evaluate.py", "search", "layers"])
@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_names_that_are_refused(
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = name.replace("\\n", "\n").replace("\\t", "\t")
    output = tmp_path / "deep" / "output"
    arguments = [f"run_name={written}", f"paths.output_dir={output}"]
    assert _call([command, "model=tiny", *arguments], monkeypatch) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    assert "must be a plain folder name" in message
    assert "run_name" in message
    assert "Traceback" not in message
    # Nothing was made, neither there nor elsewhere.
    assert list(tmp_path.rglob("*")) == []
    assert not Path("/tmp/embedllm-escaped").exists()


@pytest.mark.usefixtures("entry_process")
@pytest.mark.parametrize("name", ["../x", "/tmp/x", "", "a/../../b", "a\nb", "-x/.."])
def test_names_of_prompts(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quoted = f'save_as="{name}"'
    folder = f"paths.output_dir={tmp_path}"
    assert _call(["search", "model=tiny", quoted, "run_name=run", folder], monkeypatch) == 2
    assert "save_as=" in capsys.readouterr().err


@pytest.mark.usefixtures("entry_process")
def test_names_of_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "output"
    command = ["train.py", "--multirun", "seed=1,2", "sweep_name=../x", "debug=tiny"]
    assert _call([*command, f"paths.output_dir={output}"], monkeypatch) == 2
    assert "must be a plain folder name" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []
