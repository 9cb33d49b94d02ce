"""Hydra's launcher of SLURM jobs, with resources for each job instead of one set for all.

hydra-submitit-launcher submits the jobs of a sweep as one array, whose jobs all have the same
resources. Here neighbouring jobs with the same needs are an array of their own. Hydra finds
launchers in this folder alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from embedllm.errors import ConfigError


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
        """Submits the jobs, an array for each run of equal needs, and returns when all are done."""
        needs = [self._needs_of(overrides) for overrides in job_overrides]
        arrays = [
            [number for number, _ in group]
            for _, group in groupby(enumerate(needs), key=lambda pair: pair[1])
        ]
        waiting = [
            _start(
                self._launcher_of(needs[array[0]]).launch,
                [job_overrides[number] for number in array],
                initial_job_idx + array[0],
            )
            for array in arrays
        ]
        return [job for future in waiting for job in future.result()]

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

    def _launcher_of(self, needs: dict[str, int]) -> Launcher:
        try:
            from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
            from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
        except ImportError as error:
            raise ConfigError(
                "hydra/launcher=slurm needs hydra-submitit-launcher: pip install -e '.[slurm]'"
            ) from error
        settings = OmegaConf.structured(SlurmQueueConf(**self._settings | needs))
        with open_dict(settings):
            del settings["_target_"]
        launcher = SlurmLauncher(**settings)
        launcher.setup(hydra_context=self._context, task_function=self._task, config=self._config)
        return launcher


def _start(
    launch: Callable[..., Sequence[JobReturn]], *arguments: Any
) -> Future[Sequence[JobReturn]]:
    """Calls a function on a thread that does not keep the process: Ctrl-C ends the waiting."""
    future: Future[Sequence[JobReturn]] = Future()

    def work() -> None:
        try:
            future.set_result(launch(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
