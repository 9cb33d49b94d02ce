"""The wheel: what is in it, and that it works where there is no checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import documented
from tiny_runs import REPOSITORY, read_json, script_environment

TAGGED = "7.8.9"


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it.

    Attributes:
        wheel: The file.
        folder: The environment.
    """

    wheel: Path
    folder: Path

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment; the checkout is not on its path."""
        return subprocess.run(
            [str(self.folder / "bin" / words[0]), *words[1:]],
            cwd=cwd,
            env=script_environment(PYTHONPATH=None, VIRTUAL_ENV=None, COLUMNS="300"),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def embedllm(self, *words: str, cwd: Path) -> str:
        """Runs `embedllm WORDS` and returns both streams; it must end well."""
        ended = self.run("embedllm", *words, cwd=cwd)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout + ended.stderr


def _tracked_files(folder: Path) -> Path:
    """Copies what git tracks, with today's content, so that nothing is built in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = REPOSITORY / name, folder / name
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    return folder


def _git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, check=True)


def _build(source: Path, output: Path) -> Path:
    # Without isolation: the build's own requirements are among those of the tests.
    ended = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)],
        env=script_environment(PYTHONPATH=None),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    [wheel] = output.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of a tagged commit, by way of the sdist, in an environment of its own."""
    folder = tmp_path_factory.mktemp("installed")
    source = _tracked_files(folder / "source")
    _git(source, "init", "--quiet")
    _git(source, "add", "--all", "--force")
    _git(source, "commit", "--quiet", "--message", "all of it")
    _git(source, "tag", f"v{TAGGED}")
    wheel = _build(source, folder / "dist")
    environment = folder / "venv"
    venv.create(environment, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    # The libraries of this environment. Its own .pth files, which lead to the checkout, are not
    # read there.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    pip, install, _ = documented("pip install embedllm-*.whl", page="docs/index.md")
    words = [sys.executable, "-m", pip, "--python", str(environment / "bin" / "python"), install]
    alone = ("--quiet", "--no-deps", "--no-index", "--ignore-installed")
    subprocess.run([*words, *alone, str(wheel)], check=True)
    return Installed(wheel, environment)


def test_the_wheel_has_every_file_and_no_other(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "--", "embedllm", "hydra_plugins", "conf"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = set(listed.stdout.splitlines()) - {"embedllm/conf"}
    assert names == {re.sub("^conf/", "embedllm/conf/", name) for name in expected}


def test_it_runs_from_the_wheel_alone(installed: Installed, tmp_path: Path) -> None:
    code = "import embedllm, embedllm.entry as e; print(embedllm.__version__, e.CONF_DIR)"
    ended = installed.run("python", "-c", code, cwd=tmp_path)
    version, conf_dir = ended.stdout.split()
    assert version == TAGGED
    assert Path(conf_dir).is_relative_to(installed.folder)


def test_help_names_the_command_as_it_is_called(installed: Installed, tmp_path: Path) -> None:
    listed = installed.embedllm("--help", cwd=tmp_path)
    assert "usage: embedllm COMMAND" in listed
    assert re.search(r"^  train ", listed, re.MULTILINE)
    for command in ("train", "plan"):
        described = installed.embedllm(command, "--help", cwd=tmp_path)
        assert f"\nembedllm {command}" in described
        assert not re.search(r"train\.py|-m embedllm", described)


@pytest.mark.slow  # Processes that load everything.
def test_train_and_plan_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    words = ("train", "debug=tiny", "evaluation.before=false", "run_name=first")
    told = installed.embedllm(*words, cwd=tmp_path)
    assert f"this goes on: embedllm {' '.join(words)}" in told
    assert "train.py" not in told
    assert "adapter: outputs/first/adapter" in told
    record = read_json(tmp_path / "outputs" / "first" / "results" / "after.json")
    assert record["versions"]["embedllm"] == TAGGED
    assert record["git_revision"] is None
    words = ("plan", "model=tiny", "hardware=a100-80gb", "trainer.devices=8")
    assert "embedllm train model=tiny" in installed.embedllm(*words, cwd=tmp_path)


def test_errors_name_the_command_as_it_is_called(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = installed.run("embedllm", "report", "paths.results_dir=empty", cwd=tmp_path)
    assert ended.returncode == 2
    assert "embedllm evaluate and embedllm train fill it" in ended.stderr


@pytest.mark.slow
def test_evaluate_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    installed.embedllm("train", "debug=tiny", "evaluation=none", "run_name=first", cwd=tmp_path)
    words = ("evaluate", "adapter_path=outputs/first/adapter")
    assert "sample-test" in installed.embedllm(*words, cwd=tmp_path)
    ended = installed.run("embedllm", "evaluate", "adapter_path=outputs", cwd=tmp_path)
    assert ended.returncode == 2
    assert "(embedllm train prints the path of the one it wrote)" in ended.stderr


@pytest.mark.slow
def test_several_processes_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    words = ("train", "debug=tiny", "strategy=ddp", "trainer.devices=2", "evaluation=none")
    assert "adapter: outputs/" in installed.embedllm(*words, cwd=tmp_path)


@pytest.mark.slow
def test_a_version_without_git(tmp_path: Path) -> None:
    wheel = _build(_tracked_files(tmp_path / "source"), tmp_path / "dist")
    assert re.fullmatch(r"embedllm-\d+\.\d+\.\d+\.dev0-py3-none-any\.whl", wheel.name)
