"""Hydra's launcher of SLURM jobs, with resources for each job instead of one set for all.

hydra-submitit-launcher submits the jobs of a sweep as one array, whose jobs all have the same
resources, and gives up at the first that leaves no result. Here neighbouring jobs with the same
needs are an array of their own, and a job that SLURM ended is a failed run, like any other. Hydra
finds launchers in this folder alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from embedllm.errors import ConfigError, PeerError
from embedllm.log import get_logger
from embedllm.run_state import note_lost

_log = get_logger(__name__)
# Often enough for jobs of minutes, and no burden on a cluster's controller.
_LOOK_EVERY_SECONDS: Final = 10.0


class PlannedSlurmLauncher(Launcher):
    """Submits the jobs of a sweep to SLURM and waits for them.

    Args:
        hardware: An option of `conf/hardware`: what the cluster's nodes have. Null takes
            `tasks_per_node`, `gpus_per_node` and `mem_gb` as they are set.
        settings: Settings of hydra-submitit-launcher (its `SlurmQueueConf`).
    """

    def __init__(self, hardware: str | None, **settings: Any) -> None:
        self._hardware = hardware
        self._settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keeps what jobs are made of."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submits the jobs, an array for each run of equal needs; returns when all have ended."""
        start = datetime.now(UTC)
        needs = [self._needs_of(overrides) for overrides in job_overrides]
        arrays = [
            [number for number, _ in group]
            for _, group in groupby(enumerate(needs), key=lambda pair: pair[1])
        ]
        jobs = [
            job
            for array in arrays
            for job in self._submit(
                {initial_job_idx + number: job_overrides[number] for number in array},
                needs[array[0]],
            )
        ]
        _wait_for([job for job in jobs if not isinstance(job, str)])
        ends = [job if isinstance(job, str) else _end_of(job) for job in jobs]
        return [
            self._failed(end, overrides, start) if isinstance(end, str) else end
            for end, overrides in zip(ends, job_overrides, strict=True)
        ]

    def _needs_of(self, overrides: Sequence[str]) -> dict[str, int]:
        """Returns the settings that differ from job to job."""
        if self._hardware is None:
            return {}
        from embedllm.config import HardwareConfig
        from embedllm.entry import CONF_DIR, to_typed
        from embedllm.log import quiet_libraries
        from embedllm.planning.job_resources import job_resources

        quiet_libraries()
        path = CONF_DIR / "hardware" / f"{self._hardware}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(option.stem for option in path.parent.glob("*.yaml")))
            raise ConfigError(
                f"hydra.launcher.hardware={self._hardware} is not known; allowed: {known}"
            )
        options = OmegaConf.load(path)
        # Some options set more than their group.
        hardware = OmegaConf.merge(HardwareConfig, options.get("hardware", options))
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        # The job gets it without, and so does what checks it.
        with open_dict(config):
            del config["hydra"]
        needs = job_resources(to_typed(config), to_typed(hardware))
        return {
            "tasks_per_node": needs.processes,
            "gpus_per_node": needs.gpus,
            "mem_gb": needs.memory_gib,
        }

    def _submit(self, runs: dict[int, Sequence[str]], needs: dict[str, int]) -> Sequence[Any | str]:
        """Returns the submitted jobs, as submitit has them; for each why not, where SLURM refuses.

        Args:
            runs: Overrides by number in the sweep.
            needs: Settings of these jobs alone.
        """
        executor = _build_executor(self._settings | needs)
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
        from submitit.core.utils import FailedJobError

        # What runs in the job, and goes on there when it is requeued.
        call = SlurmLauncher()
        call.setup(hydra_context=self._context, task_function=self._task, config=self._config)
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
            for state in [Singleton.get_state()]
            for number, overrides in runs.items()
        ]
        try:
            jobs = executor.map_array(call, *zip(*arguments, strict=True))
        except FailedJobError as error:
            return [f"SLURM refused its job: {' '.join(str(error).split())}"] * len(runs)
        for job, overrides in zip(jobs, runs.values(), strict=True):
            _log.info("SLURM job %s: %s", job.job_id, " ".join(overrides))
        return jobs

    def _failed(self, reason: str, overrides: Sequence[str], start: datetime) -> JobReturn:
        """Returns the failure of a run whose job left no result, and keeps it in its folder."""
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        failure = note_lost(folder, reason, overrides=overrides, start=start)
        error = PeerError(failure.message, exit_code=failure.exit_code)
        return JobReturn(overrides, status=JobStatus.FAILED, _return_value=error)


def _build_executor(settings: dict[str, Any]) -> Any:
    """Returns what submits jobs with these settings."""
    try:
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, SlurmQueueConf
    except ImportError as error:
        raise ConfigError(
            "hydra/launcher=slurm needs hydra-submitit-launcher: pip install -e '.[slurm]'"
        ) from error
    if shutil.which("srun") is None:
        raise ConfigError("hydra/launcher=slurm finds no SLURM on this machine (srun, squeue)")
    checked = OmegaConf.structured(SlurmQueueConf(**settings))
    values: Any = OmegaConf.to_container(checked, resolve=True)
    del values["_target_"]
    folder, num_timeouts = values.pop("submitit_folder"), values.pop("max_num_timeout")
    of_all = {field.name for field in fields(BaseQueueConf)}
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=num_timeouts)
    executor.update_parameters(
        **{key if key in of_all else f"slurm_{key}": value for key, value in values.items()}
    )
    return executor


def _wait_for(jobs: Sequence[Any]) -> None:
    """Returns when every job has left its results, or the queue without them.

    It asks squeue, which every cluster answers, also for jobs that went back into the queue.
    submitit asks sacct, which needs accounting, and that every ten minutes.
    """
    waiting, missing = list(jobs), set[str]()
    while waiting := [job for job in waiting if not _has_results(job, num_tasks=job.num_tasks)]:
        queue = _queue()
        absent = {job.job_id for job in waiting if queue is not None and job.job_id not in queue}
        # Missed twice: a file may show a moment after its job has ended.
        waiting = [job for job in waiting if job.job_id not in absent & missing]
        missing = absent
        if waiting:
            time.sleep(_LOOK_EVERY_SECONDS)


def _end_of(job: Any) -> JobReturn | str:
    """Returns what a job that has ended left; without a result, why the run failed."""
    from submitit.core.utils import FailedJobError

    reason, first = "ended without a result", job.task(0)
    # Rank 0 speaks for all. Without its file submitit would ask sacct, maybe for ever.
    if _has_results(job, num_tasks=1):
        try:
            end: JobReturn = first.result()
            return end
        except FailedJobError:
            reason = "ended before its run began"
    return f"SLURM job {job.job_id} {reason}; its log: {first.paths.stderr}"


def _has_results(job: Any, *, num_tasks: int) -> bool:
    """Whether the first tasks of a job have left a result. A listing is fresh on NFS too."""
    names = {path.name for path in job.paths.folder.iterdir()}
    return all(job.task(n).paths.result_pickle.name in names for n in range(num_tasks))


def _queue() -> set[str] | None:
    """Returns the jobs of this user that wait or run; None when SLURM does not answer."""
    command = ["squeue", f"--user={os.getuid()}", "--array", "--noheader", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # %i has the number of an array and that in it, as submitit has them.
    return set(done.stdout.split()) if done.returncode == 0 else None
