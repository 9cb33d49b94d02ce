"""Composes configs and runs tiny trainings, in this process or in another one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from forked import Forked, can_fork
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from embedllm.config import EvaluateConfig, TrainConfig
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.training import fit
from embedllm.training.runner import TrainResult, train

REPOSITORY = CONF_DIR.parent

RunHere = Callable[..., tuple[int | str | None, str]]
"""Runs a script in this process: to its exit code and what went to the console (`run_here`)."""

# Two epochs of ten steps, the last batch of an epoch smaller; the adapter of the last step is
# kept, so every step shows in it.
TWENTY_STEPS = (
    "evaluation=none",
    "data.max_examples=78",
    "trainer.max_epochs=2",
    "trainer.max_steps=20",
)


def compose_train(*overrides: str) -> TrainConfig:
    """Returns the config that `train.py` would get with these overrides."""
    config = compose_typed("train", *overrides)
    assert isinstance(config, TrainConfig)
    return config


def compose_evaluate(*overrides: str) -> EvaluateConfig:
    """Returns the config that `evaluate.py` would get with these overrides."""
    config = compose_typed("evaluate", *overrides)
    assert isinstance(config, EvaluateConfig)
    return config


def compose_typed(name: str, *overrides: str, conf_dir: Path = CONF_DIR) -> Any:
    """Returns the config that a command would get with these overrides.

    Args:
        name: A root config: `train`, `evaluate` or a command.
        overrides: As on the command line, with full keys.
        conf_dir: Where the root config lies.
    """
    return to_typed(compose_raw(name, *overrides, conf_dir=conf_dir))


def compose_raw(
    name: str, *overrides: str, conf_dir: Path = CONF_DIR, with_hydra: bool = False
) -> DictConfig:
    """Returns the same before it is checked, with Hydra's own part where that is asked for."""
    register()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        return compose(name, overrides=list(overrides), return_hydra_config=with_hydra)


def tiny_config(output_dir: Path, *overrides: str) -> TrainConfig:
    """Returns the config of `train.py debug=tiny` on CPU with a run folder `output_dir`/run."""
    return compose_train(
        "debug=tiny",
        "run_name=run",
        f"paths.output_dir={output_dir}",
        f"paths.results_dir={output_dir}/store",
        f"paths.cache_dir={output_dir}/cache",
        "trainer.accelerator=cpu",
        *overrides,
    )


def train_tiny(output_dir: Path, *overrides: str) -> TrainResult:
    """Runs or resumes the training of `tiny_config` in this process."""
    return train(tiny_config(output_dir, *overrides), output_dir / "run")


@contextmanager
def extra_callback(callback: pl.Callback, *, is_first: bool = False) -> Iterator[None]:
    """Gives trainings in the block one more callback, before or behind all others."""
    build_trainer = fit._build_trainer

    def build(*args: Any) -> pl.Trainer:
        trainer = build_trainer(*args)
        # Given to the trainer later on, so it can come behind the checkpoint callback.
        trainer.callbacks.insert(0 if is_first else len(trainer.callbacks), callback)
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_build_trainer", build)
        yield


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Returns the saved tensors of an adapter folder, of whatever kind."""
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*model*.safetensors")):
        weights |= load_file(path)
    assert weights
    return weights


def have_equal_weights(left: Path, right: Path) -> bool:
    """Whether two adapter folders hold bitwise the same tensors."""
    first, second = read_weights(left), read_weights(right)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


@contextmanager
def restored_logging() -> Iterator[None]:
    """Takes away the handlers that an entry point gives the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def script_environment(**changes: str | None) -> dict[str, str]:
    """Returns this process's environment with one thread; None takes a variable away."""
    values = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}
    return {name: value for name, value in values.items() if value is not None}


def run_script(
    *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 400
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` in the repository and returns what came out.

    Results go to a store below `paths.output_dir`, where that is set, not to the repository's.
    """
    folders = [a.partition("=")[2] for a in arguments if a.startswith("paths.output_dir=")]
    is_placed = any(a.startswith("paths.results_dir=") for a in arguments)
    store = [] if is_placed else [f"paths.results_dir={folder}/store" for folder in folders[:1]]
    variables = dict(environment) if environment is not None else script_environment()
    words = (*arguments, *store)
    if can_fork(words, variables):
        return Forked(words, variables, folder=REPOSITORY).wait(timeout)
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
