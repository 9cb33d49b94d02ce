"""`hydra/launcher=slurm`: a sweep whose jobs are SLURM jobs with the resources that each needs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from documents import documented
from local_cluster import PATIENCE_SECONDS, Cluster
from tiny_runs import REPOSITORY, have_equal_weights, read_json, train_tiny

COMMAND = (
    "python train.py --multirun hydra/launcher=slurm strategy=auto model=opt-125m,opt-350m,opt-1.3b"
)


def test_a_sweep_of_jobs_with_other_needs(cluster: Cluster, tmp_path: Path) -> None:
    command = documented(COMMAND)
    # The same model twice: it is the number of processes that differs.
    said = cluster.run(
        *(sys.executable, *command[1:-2], "strategy=ddp", "trainer.devices=1,2"),
        *("hydra.launcher.hardware=cpu", "hydra.launcher.cpus_per_task=1"),
        *("debug=tiny", "evaluation=none"),
        *(
            "sweep_name=sweep",
            f"paths.output_dir={tmp_path}",
            f"paths.results_dir={tmp_path}/store",
        ),
    )
    # What each of them says goes into its own log.
    assert "adapter:" not in said
    runs = list((tmp_path / "sweep").glob("tiny-opt-seed*"))
    # Of the same identity, told apart by what is swept.
    runs.sort(key=lambda run: read_json(run / "run.json")["config"]["trainer"]["devices"])
    alone = train_tiny(tmp_path / "alone", "evaluation=none")
    assert have_equal_weights(runs[0] / "adapter", alone.adapter)
    # Two arrays of one job, of which the second has two ranks in one folder.
    logs = (tmp_path / "sweep" / ".submitit").glob("*/*_log.out")
    arrays = Counter(log.parent.name for log in logs)
    assert sorted(arrays.values()) == [1, 2]
    assert len(runs) == 2
    for run in runs:
        assert "step 8/8" in (run / "train.log").read_text()
        assert read_json(run / "adapter" / "embedllm.json")["training"]["step"] == 8


@pytest.mark.slow
def test_a_job_of_a_sweep_is_preempted(cluster: Cluster, tmp_path: Path) -> None:
    options = ("evaluation=none", "trainer.max_steps=150", "trainer.max_epochs=100")
    arguments = [
        *(*documented(COMMAND)[1:-2], "strategy=single", "seed=1", *options),
        *("hydra.launcher.hardware=cpu", "hydra.launcher.cpus_per_task=1", "debug=tiny"),
        *(
            "sweep_name=sweep",
            f"paths.output_dir={tmp_path}",
            f"paths.results_dir={tmp_path}/store",
        ),
    ]
    logs = tmp_path / "sweep" / ".submitit"
    with (tmp_path / "said").open("w") as said:
        waiting = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env=cluster.environment,
            stdout=said,
            stderr=said,
        )
    cluster.wait_for(lambda: any(logs.glob("*/*_log.err")), tmp_path / "said")
    [log] = logs.glob("*/*_log.err")
    for count in (1, 2):
        steps = log.read_text().count("negatives per anchor")
        cluster.wait_for_text("negatives per anchor", log, count=steps + 2)
        cluster.run("scancel", "--signal=USR1", log.name.split("_")[0])
        cluster.wait_for_text("is in the queue again", log, count=count)
    assert waiting.wait(PATIENCE_SECONDS) == 0, (tmp_path / "said").read_text()
    alone = train_tiny(tmp_path / "alone", *options, "seed=1")
    [run] = (tmp_path / "sweep").glob("*/adapter")
    assert have_equal_weights(run, alone.adapter)


@pytest.mark.slow
def test_a_job_that_is_cancelled_stops_no_other(cluster: Cluster, tmp_path: Path) -> None:
    logs = tmp_path / "sweep" / ".submitit"
    with (tmp_path / "said").open("w") as said:
        waiting = subprocess.Popen(
            [
                *(sys.executable, *documented(COMMAND)[1:-2], "strategy=single", "seed=1,2"),
                *("hydra.launcher.hardware=cpu", "hydra.launcher.cpus_per_task=1", "debug=tiny"),
                *("evaluation=none", "sweep_name=sweep", f"paths.output_dir={tmp_path}"),
                f"paths.results_dir={tmp_path}/store",
            ],
            cwd=REPOSITORY,
            env=cluster.environment,
            stdout=said,
            stderr=said,
        )
    cluster.wait_for(lambda: any(logs.glob("*_1/*_submitted.pkl")), tmp_path / "said")
    [job] = logs.glob("*_1")
    cluster.run("scancel", job.name)
    assert waiting.wait(PATIENCE_SECONDS) == 3, (tmp_path / "said").read_text()
    *_, head, reason = (tmp_path / "said").read_text().splitlines()
    assert head == "error: 1 run of the sweep failed; the same command tries again"
    assert f"SLURM job {job.name} ended without a result; its log: " in reason
    assert len(list((tmp_path / "sweep").glob("*-seed1-*/adapter"))) == 1
