"""What `evaluate.py` does: load, score, print the table, write the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from embedllm.config import EvaluateConfig, ModelConfig
from embedllm.errors import ConfigError
from embedllm.log import get_logger, quiet_libraries

_log = get_logger(__name__)


def run_evaluate(config: EvaluateConfig, root: Path, *, overrides: list[str]) -> None:
    """Scores a model, with or without an adapter, and writes `results.json`.

    Args:
        config: The checked configuration.
        root: The result's folder.
        overrides: The command line; tells a chosen model or prompt from a default one.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    quiet_libraries()
    from rich.console import Console

    from embedllm.evaluation.report import format_scores
    from embedllm.evaluation.run import load_configured_tasks, score_and_record
    from embedllm.files import write_json
    from embedllm.models.adapter_folder import read_description
    from embedllm.models.backbone import resolve_device
    from embedllm.models.loading import load_adapted_encoder, load_encoder

    tasks = load_configured_tasks(config.evaluation, config.evaluation.tasks)
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
        model, prompt = _base_model(config, description.model, overrides), description.prompt
        encoder = load_adapted_encoder(
            folder, cache_dir, device=device, model=model, tokens_per_batch=tokens
        )
    _log.info("prompt in use: %s", encoder.describe())
    result, record = score_and_record(
        encoder,
        tasks,
        config.evaluation,
        label="encoding",
        seed=config.seed,
        model=model,
        prompt=prompt,
        adapter=config.adapter_path,
    )
    path = root / "results.json"
    write_json(path, record)
    console = Console()
    console.print(format_scores({Path(config.adapter_path or model.name).name: result}))
    console.print(f"results: {path}", soft_wrap=True)


def _base_model(config: EvaluateConfig, saved: ModelConfig, overrides: list[str]) -> ModelConfig:
    """Returns the saved base model with what the command line says about `model` on top."""
    if any(o.startswith("model=") for o in overrides):
        return config.model
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    names = {key.split(".")[1] for key in keys if key.startswith("model.")}
    return replace(saved, **{name: getattr(config.model, name) for name in names})


def _refuse_other_prompt(overrides: list[str]) -> None:
    given = [o for o in overrides if o.lstrip("+~").startswith(("prompt=", "prompt."))]
    if given:
        raise ConfigError(
            f"adapter_path=... brings the prompt it was trained with, so {given[0]} has no place; "
            "leave it out, or leave out adapter_path=... to score the base model with that prompt"
        )
