"""The optimizer step of train.py, in Lightning's own loop, with its parts marked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, Final, cast

import pytorch_lightning as pl
from torch import Tensor

from embedllm.config import TrainConfig
from embedllm.data.examples import TrainingData
from embedllm.data.loader import ContrastiveBatch, ContrastiveLoader
from embedllm.data.token_table import open_token_table
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.adapters import attach_adapter
from embedllm.models.encoder import SentenceEncoder
from embedllm.profiling.draw import draw_examples
from embedllm.profiling.observers import Observer
from embedllm.profiling.sections import Part, Sections, instrumented, replaced
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize
from embedllm.training.callbacks.step_seed import StepSeed
from embedllm.training.module import ContrastiveModule

# Steps of data beyond those that are run: the first, which all compute with, and what the loader
# makes ahead.
_MORE_STEPS: Final = 4


def run_train_steps(
    config: TrainConfig,
    data: TrainingData,
    encoder: SentenceEncoder,
    sections: Sections,
    observers: Sequence[Observer],
) -> None:
    """Runs an optimizer step of a training once for each observer.

    Args:
        config: The training.
        data: Its examples.
        encoder: The base model; it gets the adapter and is trained.
        sections: Is told which part of a step runs.
        observers: One for each step.
    """
    settings = config.trainer
    embedder = encoder.embedder
    embedder.trunk = attach_adapter(embedder.trunk, config.adapter, seed=config.seed)
    loader = _build_loader(config, data, encoder, num_steps=len(observers) + _MORE_STEPS)
    batches = _SameBatches(loader, settings.accumulate_grad_batches, observers, sections)
    # The schedule is that of the whole training.
    num_steps = -(-len(data.examples) // config.data.global_batch_size) * settings.max_epochs
    module = _MarkedModule(
        embedder,
        InfoNCE(config.loss.temperature, config.loss.hard_negative_weight),
        settings,
        total_steps=min(num_steps, settings.max_steps or num_steps),
        tokens_per_pack=config.data.tokens_per_pack,
    )
    module.mark(sections, num_batches=batches.num_batches)
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_epochs=-1,
        max_steps=len(observers),
        accumulate_grad_batches=batches.num_batches,
        gradient_clip_val=settings.gradient_clip_norm or None,
        precision=cast(Any, settings.precision),
        callbacks=[StepSeed(config.seed)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    # Models load in evaluation mode and Lightning leaves modes alone.
    module.train()
    with (
        instrumented(sections, embedder.trunk),
        replaced(module.loss, "forward", sections.timed(Part.LOSS)),
    ):
        try:
            trainer.fit(module, train_dataloaders=batches)
        except SystemExit as error:
            # Lightning answers Ctrl-C with sys.exit(1), which is the code of a bug here.
            raise KeyboardInterrupt from error


def _build_loader(
    config: TrainConfig, data: TrainingData, encoder: SentenceEncoder, *, num_steps: int
) -> ContrastiveLoader:
    """Returns the loader of training, over as many examples as these steps take."""
    batch_size = config.data.global_batch_size
    examples = draw_examples(data, batch_size * num_steps, seed=config.seed)
    to_ids = partial(
        tokenize,
        tokenizer=encoder.tokenizer,
        prompt=build_prompt(config.prompt, training=True),
        max_length=encoder.max_length,
    )
    texts = [text for e in examples for text in (e.anchor, e.positive, *e.negatives)]
    return ContrastiveLoader(
        examples,
        open_token_table(texts, to_ids, None).look_up,
        batch_size=batch_size // config.trainer.accumulate_grad_batches,
        seed=config.seed,
        drop_last=config.data.drop_last,
    )


class _MarkedModule(ContrastiveModule):
    """The module of training, which says what it is doing."""

    def mark(self, sections: Sections, *, num_batches: int) -> None:
        """Sets who is told, and how many micro-batches make a step."""
        self._sections = sections
        self._num_batches = num_batches

    def training_step(self, batch: ContrastiveBatch, batch_idx: int) -> Tensor:
        # What is neither prefix, trunk nor loss packs the rows or pools and sorts the vectors.
        with self._sections.part(Part.POOLING):
            return super().training_step(batch, batch_idx)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with self._sections.part(Part.BACKWARD):
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        # The closure runs forward and backward, and only then Lightning clips and steps.
        def closure() -> Any:
            with self._sections.part(Part.OTHER):
                return optimizer_closure() if optimizer_closure is not None else None

        with self._sections.part(Part.OPTIMIZER):
            super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self._num_batches == 0:
            self._sections.end()


class _SameBatches:
    """Waits for the loader as training does, but yields the batches of the first step again.

    So the wait is that of a run in full swing, and every observer sees the same work.

    Args:
        loader: Makes the batches.
        num_batches: Micro-batches of a step.
        observers: One for each step.
        sections: Is told where a step begins.
    """

    def __init__(
        self,
        loader: ContrastiveLoader,
        num_batches: int,
        observers: Sequence[Observer],
        sections: Sections,
    ) -> None:
        self.num_batches = min(num_batches, len(loader))
        self._loader = loader
        self._observers = observers
        self._sections = sections

    def __len__(self) -> int:
        return len(self._observers) * self.num_batches

    def __iter__(self) -> Iterator[ContrastiveBatch]:
        with closing(self._endless()) as batches:
            first = list(islice(batches, self.num_batches))
            for observer in self._observers:
                self._sections.begin(observer)
                for batch in first:
                    with self._sections.part(Part.DATA):
                        next(batches)
                    self._sections.tokens["real"] += batch.num_tokens
                    self._sections.tokens["texts"] += len(batch.token_ids)
                    yield batch

    def _endless(self) -> Generator[ContrastiveBatch, None, None]:
        while True:
            yield from self._loader
