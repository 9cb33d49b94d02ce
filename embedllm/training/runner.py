"""A training run from configuration to the table: read, score, train, keep the best, score."""

from __future__ import annotations

import gc
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from embedllm.config import TrainConfig
from embedllm.distributed import main_first, main_only, share_from_main
from embedllm.evaluation.run import (
    Origin,
    prepare_encoder,
    score_and_record,
)
from embedllm.evaluation.scores import EvaluationResult
from embedllm.evaluation.suite import Task
from embedllm.files import as_write_error
from embedllm.invocation import Invocation
from embedllm.log import get_logger
from embedllm.models.adapters import new_adapter
from embedllm.models.backbone import resolve_device
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder, load_encoder
from embedllm.models.spreading import Spreading, spreading_of
from embedllm.ranks import current_rank
from embedllm.results import append_result
from embedllm.run_state import read_run_state
from embedllm.tracking import Tracker
from embedllm.training.callbacks.preemption import (
    end_if_asked,
)
from embedllm.training.checkpoints import check_may_resume
from embedllm.training.fit import fit
from embedllm.training.inputs import Inputs, read_inputs
from embedllm.training.loggers import track
from embedllm.training.run_folder import RunFolder
from embedllm.versions import git_revision

_log = get_logger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        adapter: Folder of the best adapter.
        before: Record of the scores before training, None with `evaluation.before=false`.
        after: Record of the scores of the best adapter, None without tasks.
        seconds: Wall-clock time of this process, in seconds.
    """

    adapter: Path
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    seconds: float


def train(config: TrainConfig, root: Path, *, invocation: Invocation | None = None) -> TrainResult:
    """Runs or resumes a training run in the folder `root`.

    The steps that are finished, judged by the files they left, are not done again: the score
    before, the training up to its newest checkpoint, the score after.

    Args:
        config: The checked configuration.
        root: The run folder.
        invocation: How `train.py` was called, for the records; None for a call from Python.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    start = time.perf_counter()
    git_revision()
    run = RunFolder(root)
    origin = Origin(config.run_name)
    if invocation is not None:
        origin = Origin.of(invocation, script="train.py", run_name=config.run_name)
    # Rank 0 first: what is downloaded or converted is there for the others.
    inputs = main_first(lambda: read_inputs(config))
    with ExitStack() as claims, as_write_error(root):
        main_only(lambda: claims.enter_context(run.claimed(config, inputs.data.sha256)))
        device = resolve_device(config.trainer.accelerator)
        is_complete = run.adapter.is_dir() and bool(run.read_result("after") or not inputs.tasks)
        tracker = claims.enter_context(track(config, run, is_complete=is_complete))
        pl.seed_everything(config.seed, verbose=False)
        if not share_from_main(run.adapter.is_dir()):
            _train_and_keep_best(config, run, inputs, device, origin, tracker)
        before, after = (_read_result(run, name) for name in ("before", "after"))
        if inputs.tasks and after is None:
            _score_adapter(config, run, inputs.tasks, device, origin)
            after = _read_result(run, "after")
        for record in (before, after):
            # Again, should the run have stopped between its own file and the store.
            if record is not None and current_rank().is_main:
                append_result(Path(config.paths.results_dir), record)
        _track_outcome(config, run, tracker, {"before": before, "after": after})
        return TrainResult(run.adapter, before, after, time.perf_counter() - start)


def _track_outcome(
    config: TrainConfig, run: RunFolder, tracker: Tracker, records: dict[str, Any]
) -> None:
    if tracker.run is None:
        return
    tracker.log_scores(records)
    state = read_run_state(run.root)
    tracker.summarize({"dev_score": state.dev_score, "objective": state.objective})
    if config.logger.save_adapter:
        tracker.save_folder(run.adapter, name=f"{config.run_name}-adapter", kind="adapter")


def _read_result(run: RunFolder, name: str) -> dict[str, Any] | None:
    """Returns a finished result as rank 0 sees it."""
    return share_from_main(main_only(lambda: run.read_result(name)))


def _train_and_keep_best(
    config: TrainConfig,
    run: RunFolder,
    inputs: Inputs,
    device: torch.device,
    origin: Origin,
    tracker: Tracker,
) -> None:
    main_only(lambda: check_may_resume(run.checkpoints, config.strategy))
    if config.evaluation.before and inputs.tasks and _read_result(run, "before") is None:
        _score_base(config, run, inputs.tasks, device, origin)
    encoder = load_encoder(
        config.model,
        config.prompt,
        Path(config.paths.cache_dir),
        device=device,
        tokens_per_batch=config.evaluation.tokens_per_batch,
        attachment=new_adapter(config.adapter, seed=config.seed),
        spreading=_spreading_of(config, device, training=True),
    )
    _log.info("prompt in use: %s", encoder.describe())
    best = fit(config, run, inputs, encoder, tracker)

    def keep() -> None:
        # A rename is the mark of a finished training; the folder was complete before it.
        best.rename(run.adapter)
        shutil.rmtree(run.candidates, ignore_errors=True)

    main_only(keep)
    end_if_asked()


def _spreading_of(
    config: TrainConfig, device: torch.device, *, training: bool = False
) -> Spreading | None:
    cache_dir = Path(config.paths.cache_dir)
    return spreading_of(config.strategy, config.model, cache_dir, device=device, training=training)


def _score_base(
    config: TrainConfig, run: RunFolder, tasks: list[Task], device: torch.device, origin: Origin
) -> None:
    """Scores the base model as it is, which takes its memory along when it ends."""
    encoder = load_encoder(
        config.model,
        config.prompt,
        Path(config.paths.cache_dir),
        device=device,
        tokens_per_batch=config.evaluation.tokens_per_batch,
        spreading=_spreading_of(config, device),
    )
    result = _score(config, run, encoder, tasks, origin, adapter=None)
    _log.info("before training: average %s", result.describe_averages())


def _score_adapter(
    config: TrainConfig, run: RunFolder, tasks: list[Task], device: torch.device, origin: Origin
) -> None:
    """Scores the saved adapter on a base that is loaded anew, as others will load it."""
    gc.collect()
    encoder = load_adapted_encoder(
        run.adapter,
        Path(config.paths.cache_dir),
        device=device,
        tokens_per_batch=config.evaluation.tokens_per_batch,
        spreading=_spreading_of(config, device),
        trust_remote_code=config.model.trust_remote_code,
    )
    _score(config, run, encoder, tasks, origin, adapter=run.adapter)


def _score(
    config: TrainConfig,
    run: RunFolder,
    encoder: SentenceEncoder,
    tasks: list[Task],
    origin: Origin,
    *,
    adapter: Path | None,
) -> EvaluationResult:
    """Scores an encoder and writes the record to the run folder, then to the results store."""
    name = "after" if adapter else "before"
    result, record = score_and_record(
        prepare_encoder(encoder, config.evaluation, Path(config.paths.cache_dir)),
        tasks,
        config.evaluation,
        label=f"{name} training",
        origin=origin,
        probe=config.probe,
        seed=config.seed,
        model=config.model,
        prompt=config.prompt,
        adapter=adapter,
    )

    def write() -> None:
        run.write_result(name, record)
        append_result(Path(config.paths.results_dir), record)

    main_only(write)
    return result
