"""`slurm/local-cluster.sh`: started twice it is one cluster, and it leaves others alone."""

from __future__ import annotations

import re
from pathlib import Path

from local_cluster import Cluster, call_script


def _status(cluster: Cluster) -> str:
    return call_script("status", cluster.environment).stdout


def test_started_twice(cluster: Cluster) -> None:
    again = call_script("start", cluster.environment)
    assert again.returncode == 0
    assert again.stdout == f"export SLURM_CONF={cluster.environment['SLURM_CONF']}\n"
    assert "runs already" in again.stderr
    # One that works for another test stands in a line of its own.
    nodes = re.findall(r"^local\S* +up +\S+ +(\d+)", _status(cluster), flags=re.MULTILINE)
    assert sum(map(int, nodes)) == 2


def test_not_beside_another_slurm(cluster: Cluster, tmp_path: Path) -> None:
    # For this one the running cluster is somebody else's.
    other = {**cluster.environment, "EMBEDLLM_SLURM_DIR": str(tmp_path / "other")}
    refused = call_script("start", other)
    assert refused.returncode == 1
    assert "a SLURM answers already" in refused.stderr
    assert not (tmp_path / "other").exists()
    assert call_script("status", other).returncode == 1


def test_a_folder_of_something_else_is_not_removed(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refused = call_script("stop", {**cluster.environment, "EMBEDLLM_SLURM_DIR": str(tmp_path)})
    assert refused.returncode == 1
    assert "is not a cluster of this script" in refused.stderr
    assert (tmp_path / "thesis.tex").exists()
