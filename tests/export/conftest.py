"""Fixtures of the tests of exports, and the option that keeps what the slow one measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_adapters import save_tiny_adapter
from tiny_runs import train_tiny


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--export-record", help="JSON file for the differences that are measured")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_tiny_adapter(tmp_path / "adapter", "opt")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a short, evaluated training."""
    folder = tmp_path_factory.mktemp("runs")
    train_tiny(folder, "trainer.max_steps=2")
    return folder / "run"
