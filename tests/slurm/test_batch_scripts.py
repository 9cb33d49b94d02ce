"""The batch scripts on a real SLURM: ranks, an array, requeue, scancel; and one after another."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from documents import documented
from local_cluster import Cluster
from tiny_runs import have_equal_weights, read_json, train_tiny

_LONG = ("evaluation=none", "trainer.max_steps=150", "trainer.max_epochs=100")
_RARE = "trainer.checkpoint_every_n_steps=100000"


def _tiny(folder: Path) -> list[str]:
    return ["debug=tiny", f"paths.output_dir={folder}", f"paths.results_dir={folder}/store"]


@pytest.mark.slow  # Minutes in queues.
def test_an_array_of_which_one_job_is_requeued(cluster: Cluster, tmp_path: Path) -> None:
    command = documented(
        "sbatch --array=0-1 slurm/sweep.sbatch sweep_name=two-seeds model=opt-125m seed=1,2"
    )
    command[-2] = "model=tiny"
    array = cluster.submit(
        [*command, *_tiny(tmp_path), *_LONG, _RARE], f"--output={tmp_path}/%a.log"
    )
    log = tmp_path / "1.log"
    cluster.wait_for_text("step 3/", log)
    cluster.run(*documented("scancel --signal=USR1 1234")[:-1], f"{array}_1")
    cluster.wait_for_text("is in the queue again", log)
    sweep = tmp_path / "two-seeds"
    runs = [run for seed in (1, 2) for run in sweep.glob(f"*-seed{seed}-*")]
    assert len(list((runs[1] / "checkpoints").iterdir())) == 1
    for task in range(2):
        assert cluster.wait_for_end(f"{array}_{task}", tmp_path / f"{task}.log") == "COMPLETED"
    assert cluster.field(f"{array}_1", "Restarts") == "1"
    assert cluster.field(f"{array}_0", "Restarts") == "0"
    # No folder but those of the two runs, which differ in the one value.
    assert sorted(sweep.iterdir()) == runs
    assert [read_json(run / "run.json")["config"]["seed"] for run in runs] == [1, 2]
    assert "resuming from" in log.read_text()
    alone = train_tiny(tmp_path / "alone", *_LONG, "seed=2").adapter
    assert have_equal_weights(runs[1] / "adapter", alone)


def test_two_ranks_are_cancelled_and_stay_so(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    command = documented(
        "sbatch --gpus-per-node=4 --ntasks-per-node=4 slurm/train.sbatch model=opt-2.7b "
        "strategy=deepspeed_zero2"
    )
    command[1:3] = ["--gpus-per-node=0", "--ntasks-per-node=2"]
    command[-2:] = ["model=tiny", "strategy=ddp"]
    job = cluster.submit(
        [
            *(*command, *_tiny(tmp_path), *_LONG, "trainer.max_steps=100000", _RARE),
            "trainer.max_epochs=100000",
        ],
        f"--output={log}",
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


@pytest.mark.slow
def test_training_evaluation_and_vectors(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "job.log"

    def run(command: list[str], *more: str) -> str:
        words = ["sbatch", "--cpus-per-task=1", f"--output={log}", *command[1:], *more]
        setup = shlex.join(documented("source slurm/site.sh"))
        job = cluster.run("bash", "-c", f"{setup} && {shlex.join(words)}").split()[-1]
        assert cluster.wait_for_end(job, log) == "COMPLETED", log.read_text()
        return job

    documented("export SBATCH_GPUS_PER_NODE=0")
    shown = documented("sbatch --cpus-per-task=1 slurm/train.sbatch debug=tiny")
    job = run([shown[0], *shown[2:]], *_tiny(tmp_path)[1:])
    adapter = tmp_path / f"slurm-{job}" / "adapter"

    shown = documented("sbatch slurm/train.sbatch model=opt-2.7b")
    run([*shown[:-1], "model=tiny"], *_tiny(tmp_path), "evaluation=none")

    shown = documented("sbatch slurm/evaluate.sbatch adapter_path=outputs/slurm-1234/adapter")
    job = run([*shown[:-1], f"adapter_path={adapter}"], *_tiny(tmp_path)[1:])
    assert (tmp_path / f"evaluate_slurm-{job}" / "results.json").is_file()

    corpus, output = tmp_path / "corpus.txt", tmp_path / "vectors"
    corpus.write_text("A man rides.\nA dog sleeps.\n")
    shown = documented(
        "sbatch slurm/encode.sbatch adapter_path=outputs/slurm-1234/adapter input=corpus.txt "
        "output=vectors"
    )
    run([*shown[:2], f"adapter_path={adapter}", f"input={corpus}", f"output={output}"])
    assert np.load(output / "vectors-00000.npy").shape[0] == 2
