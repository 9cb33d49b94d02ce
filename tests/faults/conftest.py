"""Fixtures of the tests of faults: forked runs, and the tally that becomes the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_tally import Tally
from killable_runs import Starter


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-record", help="JSON file for the figures of docs/operations.md")


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts what was tried and lost; written where `--faults-record` says."""
    tally = Tally()
    yield tally
    # The option is known only where this folder is named on the command line.
    if path := request.config.getoption("--faults-record", default=None):
        tally.write(Path(path))


@pytest.fixture(scope="session")
def starter() -> Starter:
    return Starter()


@pytest.fixture(scope="session")
def whole(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the run folder of a run that nothing happened to, made once for each kind."""
    runs: dict[tuple[str | int, ...], Path] = {}

    def get(*overrides: str, num_ranks: int = 1) -> Path:
        key = (*overrides, num_ranks)
        if key not in runs:
            folder = tmp_path_factory.mktemp("whole")
            runs[key] = starter.finish(folder, *overrides, num_ranks=num_ranks)
        return runs[key]

    return get
