"""Jobs on two emulated nodes that are requeued again and again; and a job whose time is over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from documents import documented
from local_cluster import Cluster
from tiny_runs import read_weights

_LONG = ("evaluation=none", "trainer.max_steps=150", "trainer.max_epochs=100")
_RARE = "trainer.checkpoint_every_n_steps=100000"


def _submit(cluster: Cluster, folder: Path, command: list[str], *overrides: str) -> str:
    places = (f"paths.output_dir={folder}", f"paths.results_dir={folder}/store")
    return cluster.submit(
        [*command, "debug=tiny", *_LONG, _RARE, *places, *overrides],
        f"--output={folder}/%j.log",
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero2"])
def test_three_requeues_on_two_nodes(strategy: str, cluster: Cluster, tmp_path: Path) -> None:
    command = documented("sbatch --nodes=2 slurm/train.sbatch strategy=deepspeed_zero2")
    command[-1] = f"strategy={strategy}"
    whole, job = (_submit(cluster, tmp_path, command) for _ in range(2))
    log = tmp_path / f"{job}.log"
    for count in range(1, 4):
        # A line with these words for every step: two of this start at least.
        steps = log.read_text().count("negatives per anchor") if log.exists() else 0
        cluster.wait_for_text("negatives per anchor", log, count=steps + 2)
        cluster.run(*documented("scancel --signal=USR1 1234")[:-1], job)
        cluster.wait_for_text("is in the queue again", log, count=count)
    assert cluster.wait_for_end(job, log) == "COMPLETED"
    assert cluster.wait_for_end(whole, tmp_path / f"{whole}.log") == "COMPLETED"
    assert cluster.field(job, "Restarts") == "3"
    assert cluster.field(job, "NumNodes") == "2"
    # One folder for all four starts.
    assert len(list(tmp_path.glob("slurm-*"))) == 2
    expected = read_weights(tmp_path / f"slurm-{whole}" / "adapter")
    found = read_weights(tmp_path / f"slurm-{job}" / "adapter")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_the_time_is_over(cluster: Cluster, tmp_path: Path) -> None:
    # With a signal that says nothing there is SIGTERM alone, at the end.
    command = ["sbatch", "--time=1", "--signal=CONT@1", "slurm/train.sbatch"]
    endless = ("trainer.max_steps=100000", "trainer.max_epochs=100000")
    job = _submit(cluster, tmp_path, command, *endless)
    log = tmp_path / f"{job}.log"
    cluster.wait_for_text("is in the queue again", log)
    cluster.wait_for_text("resuming from", log)
    cluster.run("scancel", job)
    assert cluster.wait_for_end(job, log) == "CANCELLED"
    assert int(cluster.field(job, "Restarts")) >= 1
