"""`hydra/launcher=slurm` when jobs end without a result; submitit's files without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from submitit.core.utils import FailedJobError, cloudpickle_dump
from submitit.slurm.slurm import SlurmJob
from tiny_runs import restored_logging

from embedllm.entry import run
from embedllm.run_state import find_runs, read_run_state
from hydra_plugins import embedllm_launcher

KILLED, REFUSED, BROKEN = 2, 3, 4


class _Executor:
    """Stands for submitit's: notes what is submitted, and leaves what each job would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submitted: list[int] = []

    def map_array(
        self, call: Any, overrides: Sequence[list[str]], *others: Any
    ) -> list[SlurmJob[Any]]:
        # All that a job is made of has to reach it.
        cloudpickle.loads(cloudpickle.dumps((call, others)))
        return [self._submit(one) for one in overrides]

    def _submit(self, overrides: list[str]) -> SlurmJob[Any]:
        seed = next(int(o.removeprefix("seed=")) for o in overrides if o.startswith("seed="))
        if seed == REFUSED:
            raise FailedJobError("sbatch: error: Requested node\nis not available")
        self.submitted.append(seed)
        job: SlurmJob[Any] = SlurmJob(folder=self.folder / "%j", job_id=str(seed), tasks=(0, 1))
        job.paths.folder.mkdir(parents=True)
        leaves: tuple[str, Any] = ("error", "a traceback")
        if seed != BROKEN:
            leaves = ("success", JobReturn(overrides, status=JobStatus.COMPLETED, _return_value=1))
        # Of the one that was killed the second rank had come to its end.
        for task in (1,) if seed == KILLED else (0, 1):
            cloudpickle_dump(leaves, job.task(task).paths.result_pickle)
        return job


def test_a_job_without_a_result_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Hydra loads its plug-ins anew when it first looks for them.
    Plugins.instance()
    executor = _Executor(tmp_path / "jobs")
    monkeypatch.setattr(embedllm_launcher, "_build_executor", lambda _: executor)
    monkeypatch.setattr(embedllm_launcher, "_queue", set)
    monkeypatch.setattr(embedllm_launcher, "_LOOK_EVERY_SECONDS", 0)
    # Each job an array of its own, so that SLURM may refuse one.
    monkeypatch.setattr(
        embedllm_launcher.PlannedSlurmLauncher,
        "_needs_of",
        lambda _, overrides: {"mem_gb": hash(tuple(overrides))},
    )
    words = ["-m", "hydra/launcher=slurm", "debug=tiny", "seed=1,2,3,4", "sweep_name=s"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words, f"paths.output_dir={tmp_path}"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with restored_logging(), pytest.raises(SystemExit) as stop:
        run("train", lambda *_: None)
    assert stop.value.code == 3
    # One did not keep the others from being submitted and waited for.
    assert executor.submitted == [1, 2, 4]
    said = capsys.readouterr().err
    assert "Traceback" not in said
    _, *reasons = said[said.index("error: 3 runs of the sweep failed") :].splitlines()
    log = f"its log: {tmp_path}/jobs"
    expected = {
        KILLED: f"SLURM job 2 ended without a result; {log}/2/2_0_log.err",
        REFUSED: "SLURM refused its job: sbatch: error: Requested node is not available",
        BROKEN: f"SLURM job 4 ended before its run began; {log}/4/4_0_log.err",
    }
    states = [read_run_state(folder) for folder in find_runs(tmp_path / "s")]
    assert {int(state.overrides["seed"]): state.status for state in states} == dict.fromkeys(
        expected, "failed"
    )
    found = {
        int(state.overrides["seed"]): f"{state.folder}: {expected[int(state.overrides['seed'])]}"
        for state in states
    }
    assert sorted(reasons) == sorted(found.values())


class _Slow:
    """A job that shows its result at a given look."""

    def __init__(self, looks: int) -> None:
        self.job_id, self.num_tasks, self.looks = "7", 1, looks

    def has_results(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize(
    ("looks", "queue", "num_left"),
    [
        # A result that shows after the job has left the queue, and one that never does.
        (1, [set[str](), set[str]()], 1),
        (9, [set[str](), set[str](), {"7"}], 1),
        # In the queue again, or nobody knows: it is waited for.
        (9, [{"7"}, set[str](), {"7", "8"}, None, set[str](), set[str]()], 0),
    ],
)
def test_how_long_a_job_is_waited_for(
    looks: int,
    queue: list[set[str] | None],
    num_left: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_results: Callable[..., bool] = lambda job, **_: job.has_results()  # noqa: E731
    monkeypatch.setattr(embedllm_launcher, "_has_results", has_results)
    monkeypatch.setattr(embedllm_launcher, "_queue", lambda: queue.pop(0))
    monkeypatch.setattr(embedllm_launcher, "_LOOK_EVERY_SECONDS", 0)
    embedllm_launcher._wait_for([_Slow(looks)])
    assert len(queue) == num_left


def test_what_squeue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nprintf '12_0\\n12_1\\n13\\n'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert embedllm_launcher._queue() == {"12_0", "12_1", "13"}
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert embedllm_launcher._queue() is None
