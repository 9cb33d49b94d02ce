"""A training run from configuration to the table: read, score, train, keep the best, score."""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch

from embedllm.config import TrainConfig
from embedllm.data.examples import TrainingData, load_training_data
from embedllm.data.loader import ContrastiveLoader
from embedllm.data.token_identity import fingerprint_token_ids
from embedllm.data.token_table import open_token_table
from embedllm.distributed import main_first, main_only, share_from_main
from embedllm.evaluation.run import (
    Origin,
    load_configured_suite,
    load_configured_tasks,
    prepare_encoder,
    score_and_record,
)
from embedllm.evaluation.scores import EvaluationResult
from embedllm.evaluation.suite import Task
from embedllm.evaluation.tasks import PairTask
from embedllm.files import as_write_error
from embedllm.invocation import Invocation
from embedllm.log import get_logger
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.adapter_folder import save_adapter
from embedllm.models.adapters import check_adapter_config, new_adapter
from embedllm.models.backbone import load_model_config, resolve_device
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder, load_encoder
from embedllm.models.quantization import check_quantization, describe_weights
from embedllm.models.spreading import Spreading, spreading_of
from embedllm.models.whole import num_weights, trainable_parameters
from embedllm.preemption import held
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize
from embedllm.ranks import current_rank
from embedllm.results import append_result
from embedllm.run_state import read_run_state
from embedllm.tracking import Tracker
from embedllm.training.callbacks.dev_score import DevScore
from embedllm.training.callbacks.finite_steps import FiniteSteps
from embedllm.training.callbacks.preemption import (
    Preemption,
    end_if_asked,
    leave_signals_alone,
)
from embedllm.training.callbacks.step_bar import StepBar
from embedllm.training.callbacks.step_log import StepLog
from embedllm.training.callbacks.step_seed import StepSeed
from embedllm.training.checkpoints import (
    AtomicCheckpointIO,
    Layout,
    StepCheckpoint,
    check_layout,
    newest_checkpoint,
)
from embedllm.training.loggers import build_loggers, track
from embedllm.training.module import ContrastiveModule
from embedllm.training.run_folder import RunFolder
from embedllm.training.strategies.build import build_strategy
from embedllm.training.strategies.environment import LauncherEnvironment
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


@dataclass(frozen=True)
class _Inputs:
    """Everything that is read and checked before any weight is loaded."""

    data: TrainingData
    dev_task: PairTask | None
    tasks: list[Task]


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
    inputs = main_first(lambda: _read_inputs(config))
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


def _read_inputs(config: TrainConfig) -> _Inputs:
    check_adapter_config(config.adapter)
    check_quantization(config.model, config.adapter)
    build_prompt(config.prompt, training=True)
    evaluation = config.evaluation
    dev = load_configured_tasks(evaluation, [evaluation.dev_task]) if evaluation.dev_task else []
    tasks = load_configured_suite(evaluation) if evaluation.tasks else []
    data = load_training_data(config.data, seed=config.seed)
    load_model_config(config.model, Path(config.paths.cache_dir))
    return _Inputs(data, dev[0] if dev else None, tasks)


def _train_and_keep_best(
    config: TrainConfig,
    run: RunFolder,
    inputs: _Inputs,
    device: torch.device,
    origin: Origin,
    tracker: Tracker,
) -> None:
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
    best = _fit(config, run, inputs, encoder, tracker)
    # A rename is the mark of a finished training; the folder was complete before it.
    main_only(lambda: best.rename(run.adapter))
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


def _fit(
    config: TrainConfig,
    run: RunFolder,
    inputs: _Inputs,
    encoder: SentenceEncoder,
    tracker: Tracker,
) -> Path:
    """Trains, or goes on training, and returns the folder of the best adapter."""
    layout = Layout(config.strategy.title, current_rank().world_size)
    checkpoint = share_from_main(main_only(lambda: newest_checkpoint(run.checkpoints)))
    if checkpoint is not None:
        check_layout(checkpoint, layout, may_change=config.resume == "adapt")
        _log.info("resuming from %s", checkpoint)
    loader = main_first(lambda: build_loader(config, inputs.data, encoder))
    accumulate = config.trainer.accumulate_grad_batches
    steps_per_epoch = -(-len(loader) // accumulate)
    total_steps = steps_per_epoch * config.trainer.max_epochs
    total_steps = min(total_steps, config.trainer.max_steps or total_steps)
    module = ContrastiveModule(
        encoder.embedder,
        InfoNCE(config.loss.temperature, config.loss.hard_negative_weight),
        config.trainer,
        total_steps=total_steps,
        tokens_per_pack=config.data.tokens_per_pack,
        layout=layout,
    )
    keeper = _build_keeper(config, run, inputs, encoder)
    checkpoint_every = config.trainer.checkpoint_every_n_steps
    preemption = Preemption(StepCheckpoint(run.checkpoints, every_n_steps=checkpoint_every))
    callbacks: list[pl.Callback] = [
        StepSeed(config.seed),
        FiniteSteps(config.trainer.on_nan, run.root / "nonfinite", inputs.data.examples),
        StepBar(),
        StepLog(config.trainer.log_every_n_steps),
        *([keeper] if keeper else []),
        preemption,
        preemption.checkpoint,
    ]
    trainer = _build_trainer(config, run, total_steps, callbacks, tracker)
    _log_start(config, inputs, encoder, loader, total_steps)
    # Models load in evaluation mode and Lightning leaves modes alone: without this no dropout.
    module.train()
    try:
        with held():
            trainer.fit(
                module,
                train_dataloaders=loader,
                ckpt_path=str(checkpoint) if checkpoint else None,
                weights_only=True,
            )
    except SystemExit as error:
        # Lightning answers Ctrl-C with sys.exit(1), which is the code of a bug here.
        raise KeyboardInterrupt from error
    for logger in trainer.loggers:
        logger.finalize("success")
    preemption.end_if_stopped()
    if keeper is not None:
        # As rank 0 sees it, which renames the folder as soon as it knows it.
        return share_from_main(main_only(lambda: keeper.best_folder))
    folder = run.candidates / f"step-{trainer.global_step:06d}"
    _save(config, encoder, folder, trainer.global_step, None)
    return folder


def build_loader(
    config: TrainConfig, data: TrainingData, encoder: SentenceEncoder
) -> ContrastiveLoader:
    """Returns the batches of a training; its texts are tokenized where no run has done it yet."""
    texts = [text for e in data.examples for text in (e.anchor, e.positive, *e.negatives)]
    settings: dict[str, Any] = {
        "tokenizer": encoder.tokenizer,
        "prompt": build_prompt(config.prompt, training=True),
        "max_length": encoder.max_length,
    }
    name = fingerprint_token_ids(texts, **settings)
    folder = Path(config.paths.cache_dir) / "tokens"
    path = folder / f"{name}.ids" if name is not None else None
    table = open_token_table(texts, partial(tokenize, **settings), path)
    return ContrastiveLoader(
        data.examples,
        table.look_up,
        batch_size=config.data.global_batch_size // config.trainer.accumulate_grad_batches,
        seed=config.seed,
        drop_last=config.data.drop_last,
    )


def _build_keeper(
    config: TrainConfig, run: RunFolder, inputs: _Inputs, encoder: SentenceEncoder
) -> DevScore | None:
    if inputs.dev_task is None:
        return None
    return DevScore(
        encoder,
        inputs.dev_task,
        every_n_steps=config.evaluation.dev_every_n_steps,
        folder=run.candidates,
        save=lambda folder, step, value: _save(config, encoder, folder, step, value),
    )


def _save(
    config: TrainConfig, encoder: SentenceEncoder, folder: Path, step: int, value: float | None
) -> None:
    facts = {
        "step": step,
        "dev_task": config.evaluation.dev_task,
        "dev_score": value,
        "seed": config.seed,
        "data": asdict(config.data),
        "loss": asdict(config.loss),
        "trainer": asdict(config.trainer),
    }
    save_adapter(
        folder,
        encoder,
        model=config.model,
        prompt=config.prompt,
        adapter=config.adapter,
        training=facts,
    )


def _build_trainer(
    config: TrainConfig,
    run: RunFolder,
    total_steps: int,
    callbacks: list[pl.Callback],
    tracker: Tracker,
) -> pl.Trainer:
    settings = config.trainer
    rank = current_rank()
    device = resolve_device(settings.accelerator)
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=rank.world_size // rank.num_nodes,
        num_nodes=rank.num_nodes,
        strategy=build_strategy(config.strategy, device),
        max_epochs=-1,
        max_steps=total_steps,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_norm or None,
        precision=cast(Any, settings.precision),
        callbacks=callbacks,
        logger=build_loggers(run, tracker) if rank.is_main else False,
        plugins=[AtomicCheckpointIO(), LauncherEnvironment()],
        # Summaries and bars of Lightning are replaced by the start-up log and StepLog.
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        log_every_n_steps=settings.log_every_n_steps,
        default_root_dir=run.root,
    )
    leave_signals_alone(trainer)
    return trainer


def _log_start(
    config: TrainConfig,
    inputs: _Inputs,
    encoder: SentenceEncoder,
    loader: ContrastiveLoader,
    total_steps: int,
) -> None:
    trained = num_weights(p for _, p in trainable_parameters(encoder.embedder))
    everything = num_weights(encoder.embedder.parameters())
    training_prompt = build_prompt(config.prompt, training=True)
    _log.info(
        "%d examples, %d per optimizer step in %d contrastive batch(es), "
        "%d steps; %s of %s parameters are trained (%.2f%%); weights %s on %s, precision %s",
        len(inputs.data.examples),
        config.data.global_batch_size,
        config.trainer.accumulate_grad_batches,
        total_steps,
        f"{trained:,}",
        f"{everything:,}",
        100 * trained / everything,
        describe_weights(encoder.embedder.trunk),
        next(encoder.embedder.parameters()).device,
        config.trainer.precision,
    )
    if training_prompt.clean_up != encoder.prompt.clean_up:
        _log.warning(
            "training uses clean-up %r but evaluation %r (prompt.training_clean_up)",
            training_prompt.clean_up,
            encoder.prompt.clean_up,
        )


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
