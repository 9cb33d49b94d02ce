"""The cluster that the tests of this folder run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from local_cluster import Cluster, running_cluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running SLURM with two emulated nodes; skips where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster(tmp_path_factory) as running:
        yield running
