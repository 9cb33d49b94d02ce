"""The commands and paths that README and docs show exist and work."""

from __future__ import annotations

import re
import shlex
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import compose_train, compose_typed

from embedllm.entry import with_full_keys
from embedllm.training.runner import train

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _commands() -> list[str]:
    commands = []
    for page in [*PAGES, *sorted((ROOT / "conf").rglob("*.yaml"))]:
        content = page.read_text(encoding="utf-8")
        if page.suffix == ".md":
            # Long ones go on in a second line.
            content = re.sub(r"\\\n *", "", content)
        for line in content.splitlines():
            text = line.strip().removeprefix("# ").rstrip("\\").strip()
            text = re.sub(r"^(\w+=\S+ )+(?=python )", "", text)
            text = re.sub(r"^(torchrun( --\S+ \d+)*|srun python) (?=\w+\.py)", "python ", text)
            if page.suffix == ".yaml" and not line.startswith("#"):
                continue
            match = re.match(r"python (train\.py|evaluate\.py|-m embedllm [a-z]+).*", text)
            if match:
                commands.append(re.split(r"\s{2,}", match[0])[0])
    return sorted(set(commands))


def _names(config_name: str) -> list[str]:
    """Defaults of these hold the choice of the model, known to a command that runs, not here."""
    if config_name in ("results", "report", "encode", "profile", "plan", "export", "demo"):
        return []
    return ["run_name=x", *(["save_as=x"] if config_name == "search" else [])]


def test_commands_are_found() -> None:
    assert "python train.py experiment=smollm2-nli" in _commands()
    assert len(_commands()) > 40


@pytest.mark.parametrize("command", _commands())
def test_command_composes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDLLM_DATA_DIR", "/data")
    words = shlex.split(command.split(" > ")[0].replace("python -m embedllm ", "python ", 1))
    config_name = words[1].removesuffix(".py")
    overrides = [w for w in words[2:] if not w.startswith("--") and w != "job"]
    overrides = with_full_keys(config_name, overrides)
    # A sweep composes once per value.
    parts = [re.split(r",(?![^\[]*\])", o) for o in overrides] if "--multirun" in words else []
    firsts = [p[0] for p in parts] or overrides
    config = compose_typed(config_name, *firsts, *_names(config_name))
    assert is_dataclass(config)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    for target, anchor in links:
        path = (page.parent / target).resolve() if target else page
        # One page is made from the code, when the site is built.
        assert path.exists() or path == ROOT / "docs" / "configuration.md", f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{page.name}: #{anchor}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join(p.read_text("utf-8") for p in PAGES)
    # In code alone: sentences make things too.
    targets = set(re.findall(r"(?:^|`|&& )make (\w+)", text, re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_ci_calls_the_readme_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's snippet, with an adapter of a tiny model where it says `outputs/first`."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert snippet is not None
    config = compose_train("debug=tiny", "evaluation=none", "trainer.max_steps=2", "run_name=first")
    train(config, tmp_path / "outputs" / "first")
    monkeypatch.chdir(tmp_path)
    names: dict[str, np.ndarray] = {}
    exec(compile(snippet[1], "README.md", "exec"), names)
    assert names["vectors"].shape == (2, 32)
