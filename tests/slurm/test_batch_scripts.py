"""The batch scripts on a real SLURM: ranks, an array, requeue, scancel."""

from __future__ import annotations

from pathlib import Path

from documents import documented
from local_cluster import Cluster
from tiny_runs import have_equal_weights, read_json, train_tiny

_LONG = ("evaluation=none", "trainer.max_steps=300", "trainer.max_epochs=100")
_RARE = "trainer.checkpoint_every_n_steps=100000"


def _tiny(folder: Path) -> list[str]:
    return ["debug=tiny", f"paths.output_dir={folder}", f"paths.results_dir={folder}/store"]


def test_an_array_of_which_one_job_is_requeued(cluster: Cluster, tmp_path: Path) -> None:
    command = documented("sbatch --array=0-1 slurm/sweep.sbatch model=opt-125m seed=1,2")
    command[-2] = "model=tiny"
    array = cluster.submit(
        [*command, *_tiny(tmp_path), *_LONG, _RARE], f"--output={tmp_path}/%a.log"
    )
    log = tmp_path / "1.log"
    cluster.wait_for_text("step 3/", log)
    cluster.run(*documented("scancel --signal=USR1 1234")[:-1], f"{array}_1")
    cluster.wait_for_text("is in the queue again", log)
    runs = [tmp_path / f"slurm-{array}_{task}" for task in range(2)]
    assert len(list((runs[1] / "checkpoints").iterdir())) == 1
    for task in range(2):
        assert cluster.wait_for_end(f"{array}_{task}", tmp_path / f"{task}.log") == "COMPLETED"
    assert cluster.field(f"{array}_1", "Restarts") == "1"
    assert cluster.field(f"{array}_0", "Restarts") == "0"
    # No folder but those of the two runs, which differ in the one value.
    assert sorted(tmp_path.glob("slurm-*")) == runs
    assert [read_json(run / "run.json")["config"]["seed"] for run in runs] == [1, 2]
    assert "resuming from" in log.read_text()
    alone = train_tiny(tmp_path / "alone", *_LONG, "seed=2").adapter
    assert have_equal_weights(runs[1] / "adapter", alone)


def test_two_ranks_are_cancelled_and_stay_so(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    job = cluster.submit(
        [
            *("sbatch", "--ntasks-per-node=2", f"--output={log}", "slurm/train.sbatch"),
            *(*_tiny(tmp_path), "strategy=ddp", *_LONG, "trainer.max_steps=100000", _RARE),
            "trainer.max_epochs=100000",
        ]
    )
    cluster.wait_for_text("step 3/", log)
    cluster.run("scancel", job)
    assert cluster.wait_for_end(job, log) == "CANCELLED"
    assert cluster.field(job, "Restarts") == "0"
    [checkpoint] = (tmp_path / f"slurm-{job}" / "checkpoints").iterdir()
    step = int(checkpoint.stem.removeprefix("step-"))
    said = log.read_text()
    assert "15 negatives per anchor" in said
    assert f"step {step} of 100000 is done and saved" in said
    assert "and stays so" in said
    assert said.count("error: stopped by SIGTERM after step") == 1
