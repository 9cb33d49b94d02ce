"""What `evaluate.py` does: load, score, write and store the record, print the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from embedllm.config import EvaluateConfig, ModelConfig
from embedllm.errors import ConfigError
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries

_log = get_logger(__name__)


def run_evaluate(config: EvaluateConfig, invocation: Invocation) -> None:
    """Scores a model, with or without an adapter; writes `results.json` and stores a copy.

    Args:
        config: The checked configuration.
        invocation: The result's folder, and the command line, which tells a chosen model or
            prompt from a default one.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    quiet_libraries()
    from rich.console import Console

    from embedllm.evaluation.report import print_scores
    from embedllm.evaluation.run import (
        Origin,
        load_configured_suite,
        prepare_encoder,
        score_and_record,
    )
    from embedllm.files import write_json
    from embedllm.models.adapter_folder import read_description
    from embedllm.models.backbone import resolve_device
    from embedllm.models.loading import load_adapted_encoder, load_encoder
    from embedllm.results import append_result

    overrides = invocation.overrides
    tasks = load_configured_suite(config.evaluation)
    origin = Origin.of(invocation, script="evaluate.py", run_name=config.run_name)
    cache_dir = Path(config.paths.cache_dir)
    device = resolve_device()
    tokens = config.evaluation.tokens_per_batch
    model, prompt = config.model, config.prompt
    if config.adapter_path is None:
        encoder = load_encoder(model, prompt, cache_dir, device=device, tokens_per_batch=tokens)
    else:
        folder = Path(config.adapter_path)
        description = read_description(folder)
        _refuse_other_prompt(overrides)
        if not _chooses_model(overrides):
            origin = replace(origin, model_choice=None)
        model, prompt = _base_model(config, description.model, overrides), description.prompt
        encoder = load_adapted_encoder(
            folder, cache_dir, device=device, model=model, tokens_per_batch=tokens
        )
    _log.info("prompt in use: %s", encoder.describe())
    prepare_encoder(encoder, config.evaluation, cache_dir)
    result, record = score_and_record(
        encoder,
        tasks,
        config.evaluation,
        label="encoding",
        origin=origin,
        probe=config.probe,
        seed=config.seed,
        model=model,
        prompt=prompt,
        adapter=Path(config.adapter_path) if config.adapter_path else None,
    )
    # The run's own file first: should the store refuse the record, nothing is lost.
    path = invocation.folder / "results.json"
    write_json(path, record)
    append_result(Path(config.paths.results_dir), record)
    console = Console()
    print_scores(console, {Path(config.adapter_path or model.name).name: result})
    console.print(f"results: {path}", soft_wrap=True)


def _base_model(config: EvaluateConfig, saved: ModelConfig, overrides: list[str]) -> ModelConfig:
    """Returns the saved base model with what the command line says about `model` on top."""
    if _chooses_model(overrides):
        return config.model
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    names = {key.split(".")[1] for key in keys if key.startswith("model.")}
    return replace(saved, **{name: getattr(config.model, name) for name in names})


def _chooses_model(overrides: list[str]) -> bool:
    return any(override.startswith("model=") for override in overrides)


def _refuse_other_prompt(overrides: list[str]) -> None:
    given = [o for o in overrides if o.lstrip("+~").startswith(("prompt=", "prompt."))]
    if given:
        raise ConfigError(
            f"adapter_path=... brings the prompt it was trained with, so {given[0]} has no place; "
            "leave it out, or leave out adapter_path=... to score the base model with that prompt"
        )
