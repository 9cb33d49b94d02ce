"""What a training reads and checks before any weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedllm.config import TrainConfig
from embedllm.data.examples import TrainingData, load_training_data
from embedllm.evaluation.run import (
    load_configured_suite,
    load_configured_tasks,
)
from embedllm.evaluation.suite import Task
from embedllm.evaluation.tasks import PairTask
from embedllm.models.adapters import check_adapter_config
from embedllm.models.backbone import load_model_config
from embedllm.models.quantization import check_quantization
from embedllm.prompts.template import build_prompt


@dataclass(frozen=True)
class Inputs:
    """Everything that is read and checked before any weight is loaded.

    Attributes:
        data: The examples.
        dev_task: Scored while training; None without one.
        tasks: Scored before and after.
    """

    data: TrainingData
    dev_task: PairTask | None
    tasks: list[Task]


def read_inputs(config: TrainConfig) -> Inputs:
    """Returns the data and tasks of a training, and checks what needs no weights.

    Raises:
        EmbedllmError: Data, prompt, adapter or model are not what they have to be.
    """
    check_adapter_config(config.adapter)
    check_quantization(config.model, config.adapter)
    build_prompt(config.prompt, training=True)
    evaluation = config.evaluation
    dev = load_configured_tasks(evaluation, [evaluation.dev_task]) if evaluation.dev_task else []
    tasks = load_configured_suite(evaluation) if evaluation.tasks else []
    data = load_training_data(config.data, seed=config.seed)
    load_model_config(config.model, Path(config.paths.cache_dir))
    return Inputs(data, dev[0] if dev else None, tasks)
