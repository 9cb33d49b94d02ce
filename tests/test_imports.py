"""The layout: which module may import what. A violation is reported as file:line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each package may import from those before it.
ORDER = (
    "prompts",
    "models",
    "losses",
    "data",
    "evaluation",
    "demonstrations",
    "encoding",
    "planning",
    "training",
    "profiling",
)
# Shared by all; it imports only the shared modules.
SHARED = ("config",)
# Beside the order: they may import all of it but `training`, and not one another.
BESIDE = ("export", "report", "demo")
# Exceptions from the order: these know plain values only.
NEVER = {"losses": {"models"}, "data": {"models", "losses"}}
# Modules that start everything. Every other module beside the packages is shared: all may import
# it, and it imports only shared ones.
ENTRY_POINTS = (
    "embedllm/__init__.py",
    "train.py",
    "evaluate.py",
    "embedllm/entry.py",
    "embedllm/cli.py",
    "embedllm/__main__.py",
)
ENTRY_MODULES = {"entry", "cli", "__main__"}

_LIGHTNING = (
    "embedllm/training/",
    "embedllm/profiling/",
    "embedllm/data/datamodule.py",
    # Where a SLURM job's ranks meet.
    "embedllm/distributed.py",
)
# Who may import a library: files, or folders with a slash at the end.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "pytorch_lightning": _LIGHTNING,
    "lightning": _LIGHTNING,
    "lightning_fabric": _LIGHTNING,
    "hydra": ("embedllm/entry.py", "embedllm/cli.py", "embedllm/multirun.py"),
    "omegaconf": ("embedllm/entry.py", "embedllm/multirun.py", "embedllm/config/"),
    "peft": (
        "embedllm/models/adapters.py",
        "embedllm/models/adapter_folder.py",
        "embedllm/export/",
    ),
    "wandb": ("embedllm/tracking.py",),
}
# Libraries that are free elsewhere but not in these places.
NOT_IN: dict[str, tuple[str, ...]] = {
    "deepspeed": ("embedllm/prompts/", "embedllm/losses/", "embedllm/models/pooling.py"),
}


class Import(NamedTuple):
    line: int
    module: str


def imports_of(path: str, source: str) -> Iterator[Import]:
    """Yields every import, also in functions and under `if TYPE_CHECKING`, as absolute names.

    `from a import b` counts as `a.b`, because `b` may be a module.
    """
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, f"{base}.{alias.name}") for alias in node.names)


def package_of(path: str) -> str | None:
    """Returns `losses` for `embedllm/losses/info_nce.py`, None for modules beside the packages."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 and parts[1] not in SHARED else None


def allowed_packages(path: str) -> set[str]:
    package = package_of(path)
    if path in ENTRY_POINTS:
        return {*ORDER, *BESIDE}
    if package in BESIDE:
        return {*ORDER, package} - {"training"}
    if package is None:
        return set()
    return {*ORDER[: ORDER.index(package) + 1]} - NEVER.get(package, set())


def is_within(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place[-1] == "/" and path.startswith(place)) for place in places)


def fault_of(path: str, module: str) -> str | None:
    """Says why the module at `path` may not import `module`, or returns None."""
    library, _, rest = module.partition(".")
    if library != "embedllm":
        if library in ONLY_IN and not is_within(path, ONLY_IN[library]):
            return f"only {' and '.join(ONLY_IN[library])} may"
        if is_within(path, NOT_IN.get(library, ())):
            return "this place knows no training framework"
        return None
    target = rest.partition(".")[0]
    if target in ENTRY_MODULES and path not in ENTRY_POINTS:
        return "only entry points may"
    allowed = allowed_packages(path)
    if target in {*ORDER, *BESIDE} - allowed:
        return f"allowed are {', '.join(sorted(allowed)) or 'no packages'} and the shared modules"
    return None


def check_source(path: str, source: str) -> list[str]:
    """Returns the violations in one file.

    Args:
        path: The file, relative to the project, with slashes.
        source: Its content.
    """
    package = package_of(path)
    if package is not None and package not in (*ORDER, *BESIDE):
        return [f"{path}:1: package {package} has no place in the order; give it one here"]
    found = ((line, module, fault_of(path, module)) for line, module in imports_of(path, source))
    return [f"{path}:{line}: imports {module}; {fault}" for line, module, fault in found if fault]


def project_files() -> list[Path]:
    return [*sorted((ROOT / "embedllm").rglob("*.py")), ROOT / "train.py", ROOT / "evaluate.py"]


def test_imports_follow_the_layout() -> None:
    violations = [
        violation
        for file in project_files()
        for violation in check_source(
            file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")
        )
    ]
    assert not violations, "\n".join(violations)


def test_the_whole_project_is_looked_at() -> None:
    paths = {file.relative_to(ROOT).as_posix() for file in project_files()}
    assert {package_of(path) for path in paths} >= set(ORDER)
    runner = ROOT / "embedllm/training/runner.py"
    modules = {i.module for i in imports_of("embedllm/training/runner.py", runner.read_text())}
    assert "pytorch_lightning" in modules
    assert any(module.startswith("embedllm.models.") for module in modules)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("embedllm/prompts/x.py", "from embedllm.models.encoder import SentenceEncoder"),
        ("embedllm/models/x.py", "import embedllm.data.schema"),
        ("embedllm/losses/x.py", "from embedllm.models import pooling"),
        ("embedllm/losses/x.py", "from embedllm.data.schema import Example"),
        ("embedllm/data/x.py", "from embedllm.losses.info_nce import InfoNCE"),
        ("embedllm/data/x.py", "from embedllm import models"),
        ("embedllm/data/x.py", "from ..models import pooling"),
        ("embedllm/data/sample/x.py", "from ...models.pooling import pool_last"),
        ("embedllm/evaluation/x.py", "def f():\n    from embedllm.training.runner import train"),
        ("embedllm/models/x.py", "if TYPE_CHECKING:\n    from embedllm.training import module"),
        ("embedllm/files.py", "from embedllm.prompts.template import Prompt"),
        ("embedllm/planning/x.py", "from embedllm.training.runner import train"),
        ("embedllm/training/x.py", "from embedllm.entry import run"),
        ("embedllm/training/x.py", "from embedllm.report.plots import draw"),
        ("embedllm/report/x.py", "from embedllm.export.card import write_card"),
        ("embedllm/export/x.py", "from embedllm.training.runner import train"),
        ("embedllm/models/x.py", "import pytorch_lightning as pl"),
        ("embedllm/data/x.py", "from lightning_fabric.utilities import seed"),
        ("embedllm/training/x.py", "from hydra.utils import instantiate"),
        ("train.py", "import hydra"),
        ("embedllm/training/x.py", "from omegaconf import OmegaConf"),
        ("embedllm/models/embedder.py", "def f():\n    import peft"),
        ("embedllm/evaluation/x.py", "import numpy, wandb"),
        ("embedllm/models/pooling.py", "import deepspeed"),
        ("embedllm/helpers/x.py", "import json"),
    ],
)
def test_violations_are_found(path: str, source: str) -> None:
    [violation] = check_source(path, source)
    assert violation.startswith(f"{path}:{source.count(chr(10)) + 1}: ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("embedllm/models/x.py", "from embedllm.prompts.template import Prompt"),
        ("embedllm/models/x.py", "from . import pooling\nfrom .packing import pack"),
        ("embedllm/evaluation/x.py", "from embedllm.models import encoder\nimport embedllm.data"),
        ("embedllm/losses/x.py", "from embedllm import __version__\nimport embedllm.config"),
        ("embedllm/training/x.py", "from embedllm.planning.answers import choose_strategy"),
        ("embedllm/data/datamodule.py", "from pytorch_lightning import LightningDataModule"),
        ("embedllm/models/adapters.py", "from peft.mapping import x\nimport deepspeed"),
        ("embedllm/cli.py", "import hydra\nfrom embedllm.training.runner import train"),
        ("embedllm/data/x.py", "import hydra_like\nimport lightning_utilities"),
        ("train.py", "from embedllm.entry import run"),
    ],
)
def test_allowed_imports_pass(path: str, source: str) -> None:
    assert check_source(path, source) == []
