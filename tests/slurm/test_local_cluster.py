"""`slurm/local-cluster.sh`: started twice it is one cluster, and it leaves others alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

from local_cluster import SCRIPT, Cluster


def _call(action: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), action], env=environment, capture_output=True, text=True, check=False
    )


def test_started_twice(cluster: Cluster) -> None:
    again = _call("start", cluster.environment)
    assert again.returncode == 0
    assert again.stdout == f"export SLURM_CONF={cluster.environment['SLURM_CONF']}\n"
    assert "runs already" in again.stderr
    assert "node[1-2]" in _call("status", cluster.environment).stdout


def test_not_beside_another_slurm(cluster: Cluster, tmp_path: Path) -> None:
    # For this one the running cluster is somebody else's.
    other = {**cluster.environment, "EMBEDLLM_SLURM_DIR": str(tmp_path / "other")}
    refused = _call("start", other)
    assert refused.returncode == 1
    assert "a SLURM answers already" in refused.stderr
    assert not (tmp_path / "other").exists()
    assert _call("status", other).returncode == 1


def test_a_folder_of_something_else_is_not_removed(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refused = _call("stop", {**cluster.environment, "EMBEDLLM_SLURM_DIR": str(tmp_path)})
    assert refused.returncode == 1
    assert "is not a cluster of this script" in refused.stderr
    assert (tmp_path / "thesis.tex").exists()
