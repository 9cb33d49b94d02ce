"""Fixtures of the tests of searches: candidates, and searches that were run through."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from search_runs import NUM_CANDIDATES, search
from tiny_runs import restored_logging


@pytest.fixture(scope="session")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of candidates with signs that CSV, YAML and Hydra could stumble over."""
    path = tmp_path_factory.mktemp("candidates") / "candidates.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "word", "source"])
        for number in range(NUM_CANDIDATES):
            animal = ("dog", "cat", "horse", "bird")[number % 4]
            sentence = f'A {animal} eats {number} \u00e4pfel: it\'s "fine" \\ ${{x}}.'
            writer.writerow([sentence, f"Word{number}", f"list {number % 3}"])
    return path


@pytest.fixture(scope="session")
def finished(candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search run through; tests copy what they change."""
    folder = tmp_path_factory.mktemp("finished")
    with restored_logging():
        return search(candidates, folder)


@pytest.fixture(scope="session")
def exhaustive(candidates: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exhaustive search that went on from the other one's units."""
    folder = tmp_path_factory.mktemp("exhaustive")
    shutil.copytree(finished, folder / "run")
    with restored_logging():
        return search(candidates, folder, "search.rungs=[200]", "search.keep=[]")
