"""What `evaluate.py` does: load, score, write and store the record, print the table."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedllm.config import EvaluateConfig
from embedllm.config.quantization import check_quantized_strategy
from embedllm.console import print_line
from embedllm.invocation import Invocation
from embedllm.launch import launch, needs_launch
from embedllm.log import get_logger, quiet_libraries
from embedllm.ranks import current_rank
from embedllm.tracking import TrackedRun, tracked

if TYPE_CHECKING:
    from rich.console import Console

    from embedllm.evaluation.scores import EvaluationResult

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
    if needs_launch(devices=config.devices, num_nodes=1):
        launch("evaluate", invocation, run_name=config.run_name, num_processes=config.devices)
        return
    # Not before: who starts the processes needs none of these.
    quiet_libraries()
    from embedllm.distributed import joined
    from embedllm.evaluation.report import print_scores, scores_to_plain

    is_zero = config.strategy.name == "deepspeed"
    with joined(timeout_seconds=config.strategy.timeout_seconds, even_alone=is_zero) as rank:
        name, result, path = _evaluate(config, invocation)
    if rank.is_main:

        def draw(console: Console) -> None:
            print_scores(console, {name: result})
            print_line(console, f"results: {path}")

        invocation.show({"name": name, **scores_to_plain(result), "results": str(path)}, draw)


def _evaluate(config: EvaluateConfig, invocation: Invocation) -> tuple[str, EvaluationResult, Path]:
    """Returns the name of what was scored, its scores, and where they are written."""
    from embedllm.distributed import main_first, main_only
    from embedllm.evaluation.run import (
        Origin,
        load_configured_suite,
        prepare_encoder,
        score_and_record,
    )
    from embedllm.files import write_json
    from embedllm.models.backbone import load_model_config, resolve_device
    from embedllm.models.configured import choose_encoder
    from embedllm.models.spreading import spreading_of
    from embedllm.results import append_result

    tasks = main_first(lambda: load_configured_suite(config.evaluation))
    origin = Origin.of(invocation, script="evaluate.py", run_name=config.run_name)
    cache_dir = Path(config.paths.cache_dir)
    choice = main_first(
        lambda: choose_encoder(
            config.model,
            config.prompt,
            adapter_path=config.adapter_path,
            overrides=invocation.overrides,
        )
    )
    check_quantized_strategy(choice.model.quantization, config.strategy.name)
    if not choice.is_model_chosen:
        origin = replace(origin, model_choice=None)
    device = resolve_device()
    # Rank 0 first: what is downloaded or converted is there for the others.
    main_first(lambda: load_model_config(choice.model, cache_dir))
    encoder = choice.load(
        cache_dir,
        device=device,
        tokens_per_batch=config.evaluation.tokens_per_batch,
        spreading=spreading_of(config.strategy, choice.model, cache_dir, device=device),
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
        model=choice.model,
        prompt=choice.prompt,
        adapter=choice.adapter,
    )
    path = invocation.folder / "results.json"

    def write() -> None:
        # The run's own file first: should the store refuse the record, nothing is lost.
        write_json(path, record)
        append_result(Path(config.paths.results_dir), record)

    main_only(write)
    if config.logger.wandb and current_rank().is_main:
        _track(config, invocation, record)
    return (choice.adapter or Path(choice.model.name)).name, result, path


def _track(config: EvaluateConfig, invocation: Invocation, record: dict[str, Any]) -> None:
    """Makes a W&B run of the scores; the record says which model and prompt were scored."""
    about = TrackedRun(
        name=config.run_name,
        identity="evaluation",
        job_type="evaluate",
        group=config.logger.group,
        folder=invocation.folder,
        config=asdict(config)
        | {key: record[key] for key in ("model", "prompt", "adapter", "adapter_sha256", "dtype")},
    )
    with tracked(config.logger, lambda: about) as tracker:
        tracker.log_scores({"evaluation": record})
