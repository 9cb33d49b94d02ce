"""`conf/sweep/wandb.yaml`: the command that W&B's own agent makes of it, run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import documented
from offline_files import offline_runs
from tiny_runs import REPOSITORY, compose_train, read_json
from wandb import wandb_agent
from wandb.sdk.launch.sweeps.utils import load_sweep_config

COMMAND = "wandb sweep conf/sweep/wandb.yaml"
TWO_RANKS = ("strategy=ddp", "trainer.devices=2")
TINY = ("model=tiny", "data=sample", "evaluation=sample", "data.max_examples=32")
TINY += ("data.global_batch_size=8", "trainer.max_steps=2", "trainer.accelerator=cpu")


def _sweep(shown: str) -> dict[str, Any]:
    """Returns the file that the documented `wandb sweep FILE` reads, as it reads it."""
    program, command, file = documented(shown)
    assert (program, command) == ("wandb", "sweep")
    config = load_sweep_config(str(REPOSITORY / file))
    assert config is not None
    return config


def test_the_file_is_a_sweep_of_keys_that_exist() -> None:
    config = _sweep(COMMAND)
    assert config["method"] in ("bayes", "random", "grid")
    assert config["metric"] == {"name": "objective", "goal": "maximize"}
    first, last = [], []
    for key, space in config["parameters"].items():
        values = space.get("values") or [space["min"], space["max"]]
        # PyYAML takes 1e-5 for a text, and W&B would refuse it as a bound.
        assert all(isinstance(value, int | float) for value in values)
        first.append(f"{key}={values[0]}")
        last.append(f"{key}={values[-1]}")
    fixed = [item for item in config["command"] if "=" in item]
    names = [compose_train(*ends, *fixed, "data.path=x").run_name for ends in (first, last)]
    assert len(set(names)) == 2


@pytest.mark.slow
def test_an_agent_starts_one_run_of_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # The agent puts these into its own environment.
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")
    started: dict[str, Any] = {}

    class Process:
        def __init__(self, **arguments: Any) -> None:
            started.update(arguments)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    config = _sweep(COMMAND)
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep123")
    agent._sweep_command = config["command"]
    chosen = {"trainer.learning_rate": {"value": 0.0003}, "adapter.options.r": {"value": 8}}
    (tmp_path / "wandb" / "sweep-sweep123").mkdir(parents=True)
    agent._command_run({"run_id": "run456", "program": config["program"], "args": chosen})
    env, python, *arguments = started["command"]
    assert (env, python, arguments[0]) == ("/usr/bin/env", "python", "train.py")
    assert "trainer.learning_rate=0.0003" in arguments

    arguments = [a for a in arguments if not a.startswith("experiment=")]
    folders = (f"paths.output_dir={tmp_path}", f"paths.results_dir={tmp_path}/store")
    done = subprocess.run(
        [env, sys.executable, *arguments, *TWO_RANKS, *TINY, *folders],
        cwd=REPOSITORY,
        env={**os.environ, **started["env"]},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [run] = [path.parent for path in (tmp_path / "wandb").glob("*/run.json")]
    assert read_json(run / "run.json")["config"]["adapter"]["options"]["r"] == 8
    [found] = offline_runs(run)
    # The run is the one that W&B waits for, in its sweep.
    assert (found.run.run_id, found.run.sweep_id) == ("run456", "sweep123")
    assert found.config["world_size"] == 2
    assert found.summary["objective"] == pytest.approx(
        read_json(run / "adapter" / "embedllm.json")["training"]["dev_score"]
    )
