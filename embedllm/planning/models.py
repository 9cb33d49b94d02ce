"""The question the other way round: which models can some hardware train, and how."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml  # type: ignore[import-untyped]

from embedllm.config import ModelConfig, PlanConfig
from embedllm.errors import ConfigError
from embedllm.planning.answers import build_planner
from embedllm.planning.fake_model import Inventory
from embedllm.planning.planner import Candidate

MODELS: Final = "opt-*.yaml"


@dataclass(frozen=True)
class ModelAnswer:
    """Whether a model can be trained.

    Attributes:
        option: `model=...` of the configuration.
        inventory: What the model consists of.
        candidate: The fastest way that fits, or the nearest where none does.
    """

    option: str
    inventory: Inventory
    candidate: Candidate


def plan_models(
    config: PlanConfig, folder: Path, *, fixed: Collection[str] = ()
) -> list[ModelAnswer]:
    """Returns the answer for every OPT size, the smallest first.

    Args:
        config: Everything but the model; its type and quantisation count.
        folder: `conf/model`.
        fixed: As for `planner.plan`.

    Raises:
        ConfigError: The folder has no such files, or no way is possible.
    """
    answers = [
        _answer(name, replace(config, model=model), fixed)
        for name, model in _read_models(folder, config.model)
    ]
    if not answers:
        raise ConfigError(f"there is no {MODELS} in {folder}")
    return sorted(answers, key=lambda answer: answer.inventory.total)


def _read_models(folder: Path, given: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    for path in sorted(folder.glob(MODELS)):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        model = ModelConfig(**values)
        yield path.stem, replace(model, dtype=given.dtype, quantization=given.quantization)


def _answer(name: str, config: PlanConfig, fixed: Collection[str]) -> ModelAnswer:
    planner = build_planner(config)
    candidates = []
    for candidate in planner.best_first(planner.ways(fixed)):
        candidates.append(candidate)
        if candidate.fits:
            return ModelAnswer(name, planner.model.inventory, candidate)
    nearest = min(candidates, key=lambda candidate: candidate.memory.total)
    return ModelAnswer(name, planner.model.inventory, nearest)
