"""Commands are printed as they can be typed: in a checkout, elsewhere, where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from embedllm import program
from embedllm.entry import CONF_DIR

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that pip's `embedllm` has started."""
    main = ModuleType("__main__")
    main.__file__ = "/usr/local/bin/embedllm"
    monkeypatch.setitem(sys.modules, "__main__", main)
    return Path(main.__file__)


def test_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert program.words("train") == ["python", "train.py"]
    assert program.words("plan") == ["python", "-m", "embedllm", "plan"]
    assert program.arguments("evaluate") == [str(ROOT / "evaluate.py")]
    assert program.arguments("plan") == ["-m", "embedllm", "plan"]
    text = "python train.py a=1, torchrun -m embedllm encode, python -m embedllm plan"
    assert program.as_called(text) == text


def test_in_another_folder_the_path_leads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    python, script = program.words("train")
    assert python == "python"
    assert (tmp_path / script).resolve() == ROOT / "train.py"


def test_by_the_console_script(console: Path) -> None:
    assert program.words("train") == ["embedllm", "train"]
    assert program.arguments("train") == [str(console), "train"]
    text = "python train.py a=1; python evaluate.py; python -m embedllm plan b=2"
    assert program.as_called(text) == "embedllm train a=1; embedllm evaluate; embedllm plan b=2"


def test_installed_without_the_console_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_PACKAGE", tmp_path / "site-packages" / "embedllm")
    assert program.checkout() is None
    assert program.words("train") == ["python", "-m", "embedllm", "train"]
    assert program.arguments("train") == ["-m", "embedllm", "train"]


def test_the_configuration_of_a_checkout_is_the_folder_at_its_top() -> None:
    assert CONF_DIR == ROOT / "conf"
    assert (ROOT / "embedllm" / "conf").is_symlink()


@pytest.mark.parametrize("path", sorted((CONF_DIR / "help").glob("*.yaml")), ids=lambda p: p.stem)
def test_help_is_shown_as_called(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "${as_called:${hydra.help.header}}" in text
    assert "\n  ${hydra.help" not in text
