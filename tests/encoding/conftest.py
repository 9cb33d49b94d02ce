"""Fixtures of the tests that encode files."""

from __future__ import annotations

from pathlib import Path

import pytest
from encode_files import encode, write_input
from encode_runs import NUM_SHARDS, SHARD_ROWS, SIZE
from tiny_runs import restored_logging


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of a dozen shards, the last of them short."""
    path = tmp_path_factory.mktemp("source") / "sentences.txt"
    return write_input(
        path, [f"A {i} eats {i % 7} apples." for i in range(SHARD_ROWS * NUM_SHARDS - 7)]
    )


@pytest.fixture(scope="session")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A call run through; tests copy what they change."""
    with restored_logging():
        return encode(source, tmp_path_factory.mktemp("finished") / "out", SIZE)
