"""Fixtures of the tests of configs."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Configs find files under it; none of these tests reads one.
    monkeypatch.setenv("EMBEDLLM_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
