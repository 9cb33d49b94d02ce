"""What `evaluate.py` does: load, score, write and store the record, print the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from embedllm.config import EvaluateConfig
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
    from embedllm.models.backbone import resolve_device
    from embedllm.models.configured import choose_encoder
    from embedllm.results import append_result

    tasks = load_configured_suite(config.evaluation)
    origin = Origin.of(invocation, script="evaluate.py", run_name=config.run_name)
    cache_dir = Path(config.paths.cache_dir)
    choice = choose_encoder(
        config.model,
        config.prompt,
        adapter_path=config.adapter_path,
        overrides=invocation.overrides,
    )
    if not choice.is_model_chosen:
        origin = replace(origin, model_choice=None)
    encoder = choice.load(
        cache_dir,
        device=resolve_device(),
        tokens_per_batch=config.evaluation.tokens_per_batch,
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
    # The run's own file first: should the store refuse the record, nothing is lost.
    path = invocation.folder / "results.json"
    write_json(path, record)
    append_result(Path(config.paths.results_dir), record)
    console = Console()
    print_scores(console, {(choice.adapter or Path(choice.model.name)).name: result})
    console.print(f"results: {path}", soft_wrap=True)
