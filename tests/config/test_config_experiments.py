"""Models have their published size, experiments the numbers of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conf_options import OPTIONS
from tiny_runs import compose_train
from transformers import AutoModel

from embedllm.config import TrainConfig
from embedllm.models.adapters import attach_adapter, trainable_state
from embedllm.models.backbone import load_model_config

EXPERIMENTS = [option for option in OPTIONS if option.startswith("experiment=")]
PAPER_EXPERIMENTS = [option for option in EXPERIMENTS if "paper/" in option]

# Parameters of the trunk, from the published architectures: Zhang et al. 2022 (OPT, output
# embedding tied), Touvron et al. 2023 (LLaMA, less its output embedding), model cards.
NUM_PARAMETERS = {
    "opt-125m": 125e6,
    "opt-350m": 331e6,
    "opt-1.3b": 1.316e9,
    "opt-2.7b": 2.652e9,
    "opt-6.7b": 6.66e9,
    "opt-13b": 12.85e9,
    "opt-30b": 29.97e9,
    "opt-66b": 65.7e9,
    "llama-7b": 6.607e9,
    "llama-13b": 12.85e9,
    "llama-30b": 32.32e9,
    "llama-65b": 65.02e9,
    "smollm2-135m": 134.5e6,
    "gemma3-270m": 268e6,
}
COUNT_TOLERANCE = 0.01


def _build_on_meta(config: TrainConfig) -> torch.nn.Module:
    model = replace(config.model, init="random")
    with torch.device("meta"):
        trunk: torch.nn.Module = AutoModel.from_config(
            load_model_config(model, Path("unused")), dtype=torch.bfloat16
        )
    return trunk


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_models_have_their_published_size(name: str) -> None:
    trunk = _build_on_meta(compose_train(f"model={name}"))
    count = sum(p.numel() for p in trunk.parameters())
    assert count == pytest.approx(NUM_PARAMETERS[name], rel=COUNT_TOLERANCE)


def test_every_model_of_known_size_is_in_the_table() -> None:
    names = {option.removeprefix("model=") for option in OPTIONS if option.startswith("model=")}
    assert names - {"tiny", "huggingface"} == NUM_PARAMETERS.keys()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds_on_the_meta_device(experiment: str) -> None:
    config = compose_train(experiment)
    # All blocks are alike, and the test above builds as many as there are.
    config.model.architecture["num_hidden_layers"] = num_blocks = 2
    adapted = attach_adapter(_build_on_meta(config), config.adapter, seed=config.seed)
    trainable = trainable_state(adapted)
    assert all(value.device.type == "meta" for value in trainable.values())
    # Two matrices for each of the linear layers of every block.
    per_block = {"opt": 6, "llama": 7}[config.model.architecture["model_type"]]
    projections = 2 if config.model.name == "facebook/opt-350m" else 0
    assert len(trainable) == 2 * (per_block * num_blocks + projections)


@pytest.mark.parametrize("experiment", PAPER_EXPERIMENTS)
def test_paper_experiments_have_the_papers_numbers(experiment: str) -> None:
    config = compose_train(experiment)
    size = experiment.rpartition("-")[2]
    assert config.model.name == f"facebook/opt-{size}"
    # paper_method 3.4; the paper trains nothing above 13B.
    assert config.data.global_batch_size == (200 if size in ("13b", "30b", "66b") else 256)
    trainer = config.trainer
    assert (trainer.learning_rate, trainer.warmup_steps, trainer.max_epochs) == (5e-4, 100, 1)
    assert (trainer.lr_schedule, trainer.max_steps) == ("linear", None)
    assert (trainer.gradient_clip_norm, trainer.weight_decay) == (1.0, 0.0)
    assert (trainer.accumulate_grad_batches, trainer.precision) == (1, "16-mixed")
    assert (trainer.checkpoint_every_n_steps, config.evaluation.dev_every_n_steps) == (50, 50)
    assert config.seed == 42
    # 3.2
    assert (config.loss.temperature, config.loss.hard_negative_weight) == (0.05, 0.0)
    # 3.3
    assert config.adapter.method == "lora"
    assert config.adapter.options == {
        "r": 64,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": "all-linear",
    }
    # 1.1, 3.1 and 4: the template, the cut of the sentence, the tasks.
    assert config.prompt.template == 'This sentence : "{sentence}" means in one word:"'
    assert (config.prompt.max_sentence_tokens, config.data.drop_last) == (32, False)
    assert (config.prompt.clean_up, config.prompt.training_clean_up) == ("paper", "none")
    assert len(config.evaluation.tasks) == 7
    assert config.evaluation.dev_task == "STSBenchmark-dev"
    assert (config.evaluation.protocol, config.evaluation.verify) == ("paper", "strict")


def test_there_is_a_paper_experiment_for_every_opt() -> None:
    models = {o.removeprefix("model=") for o in OPTIONS if o.startswith("model=opt-")}
    assert {o.rpartition("/")[2] for o in PAPER_EXPERIMENTS} == models
