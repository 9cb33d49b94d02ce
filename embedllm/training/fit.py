"""Encoder and examples to the folder of the best adapter: loader, module, trainer, checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl

from embedllm.config import TrainConfig
from embedllm.data.examples import TrainingData
from embedllm.data.loader import ContrastiveLoader
from embedllm.data.token_identity import fingerprint_token_ids
from embedllm.data.token_table import open_token_table
from embedllm.distributed import main_first, main_only, share_from_main
from embedllm.log import get_logger
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.adapter_folder import save_adapter
from embedllm.models.backbone import resolve_device
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.quantization import describe_weights
from embedllm.models.whole import num_weights, trainable_parameters
from embedllm.preemption import held
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize
from embedllm.ranks import current_rank
from embedllm.tracking import Tracker
from embedllm.training.callbacks.dev_score import DevScore
from embedllm.training.callbacks.finite_steps import FiniteSteps
from embedllm.training.callbacks.preemption import (
    Preemption,
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
from embedllm.training.inputs import Inputs
from embedllm.training.loggers import build_loggers
from embedllm.training.module import ContrastiveModule
from embedllm.training.run_folder import RunFolder
from embedllm.training.strategies.build import build_strategy
from embedllm.training.strategies.environment import LauncherEnvironment

_log = get_logger(__name__)


def fit(
    config: TrainConfig,
    run: RunFolder,
    inputs: Inputs,
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
    config: TrainConfig, run: RunFolder, inputs: Inputs, encoder: SentenceEncoder
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
    strategy = build_strategy(config.strategy, settings.precision, device)
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=rank.world_size // rank.num_nodes,
        num_nodes=rank.num_nodes,
        strategy=strategy,
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
    inputs: Inputs,
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
