"""A loss or gradient that is NaN or infinite: no weight takes the step, and the batch is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from embedllm.data.loader import ContrastiveBatch
from embedllm.data.schema import Example
from embedllm.distributed import main_only, on_all_ranks
from embedllm.errors import NonFiniteError
from embedllm.files import write_json
from embedllm.log import get_logger
from embedllm.training.module import ContrastiveModule

_log = get_logger(__name__)

MAX_IN_A_ROW: Final = 5
"""Steps left out one behind the other at which `trainer.on_nan=skip` gives up."""
_MAX_KEPT: Final = 20


class FiniteSteps(pl.Callback):
    """Looks at loss and gradient before every optimizer step, and leaves out a step that has none.

    All ranks decide alike. It costs one look at the gradients and one word from the device a step.
    Weights without a gradient are passed over by the optimizer, moments included, so leaving a step
    out is taking the gradients away. DeepSpeed leaves such a step out by itself and says so after.

    Args:
        on_nan: `stop` or `skip` (`trainer.on_nan`).
        folder: Where the batches of such steps go, as JSON.
        examples: What is trained on, for their texts.
    """

    def __init__(self, on_nan: str, folder: Path, examples: Sequence[Example]) -> None:
        self._on_nan = on_nan
        self._folder = folder
        self._examples = examples
        self._batches: list[tuple[ContrastiveBatch, Tensor]] = []
        self._last_step = 0
        self._is_left_out = False
        self._weights: list[str] = []
        self.num_left_out = 0
        self._in_a_row = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remembers where this process starts, which after a resume is not step 0."""
        self._last_step = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Decides, with all ranks, whether this step is made."""
        assert isinstance(pl_module, ContrastiveModule)
        flags = [flag for _, flag in self._batches] + [pl_module.is_finite]
        is_zero = hasattr(type(trainer.strategy), "has_left_out_step")
        gradients = {} if is_zero else dict(_own_gradients(pl_module))
        # A scaler (16-mixed) finds its scale by gradients that overflow, and makes no such step.
        if gradients and getattr(trainer.precision_plugin, "scaler", None) is None:
            largest = torch.nn.utils.get_total_norm(gradients.values(), norm_type=torch.inf)
            flags.append(largest.isfinite())
        self._is_left_out = not on_all_ranks(torch.stack(flags).all())
        if self._is_left_out and not is_zero:
            self._weights = [n for n, value in gradients.items() if not value.isfinite().all()]
            optimizer.zero_grad()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ContrastiveBatch,
        batch_idx: int,
    ) -> None:
        """Counts, reports and keeps a step that was left out.

        Raises:
            NonFiniteError: `trainer.on_nan=stop`, or it was the fifth in a row.
        """
        assert isinstance(pl_module, ContrastiveModule)
        self._batches.append((batch, pl_module.is_finite))
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if self._is_left_out or getattr(trainer.strategy, "has_left_out_step", False):
            self._report(trainer, step)
        else:
            self._in_a_row = 0
        self._batches, self._weights = [], []

    def _report(self, trainer: pl.Trainer, step: int) -> None:
        self.num_left_out += 1
        self._in_a_row += 1
        path = self._folder / f"step-{step:06d}.json"
        if self.num_left_out <= _MAX_KEPT:
            main_only(partial(write_json, path, self._describe(step, trainer.current_epoch)))
        is_loss = not all(bool(flag) for _, flag in self._batches)
        found = f"the {'loss' if is_loss else 'gradient'} of step {step} is NaN or infinite"
        advice = (
            "Look at the texts; a lower trainer.learning_rate or more bits in trainer.precision "
            "and model.dtype, under another run_name, may help"
        )
        if self._on_nan == "stop":
            raise NonFiniteError(
                f"{found}, and the run ends before a weight takes it; the batch is in {path}. "
                f"{advice}. The same command with trainer.on_nan=skip goes on from the last "
                "checkpoint and leaves such steps out"
            )
        if self._in_a_row == MAX_IN_A_ROW:
            raise NonFiniteError(
                f"{found}, and so were those of the {MAX_IN_A_ROW - 1} steps before: training has "
                f"diverged; the batch is in {path}. {advice}"
            )
        for logger in trainer.loggers:
            logger.log_metrics({"train/steps_left_out": float(self.num_left_out)}, step=step)
        _log.warning(
            "%s; it is left out (trainer.on_nan=skip; %d so far, %d in a row), and its batch is "
            "in %s",
            found,
            self.num_left_out,
            self._in_a_row,
            path,
        )

    def _describe(self, step: int, epoch: int) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": epoch,
            "weights_with_such_gradients": self._weights,
            "micro_batches": [
                {
                    "has_finite_loss": bool(flag),
                    "examples": [
                        self._describe_example(batch, i) for i in range(batch.num_anchors)
                    ],
                }
                for batch, flag in self._batches
            ],
        }

    def _describe_example(self, batch: ContrastiveBatch, i: int) -> dict[str, Any]:
        example = self._examples[batch.examples[i]]
        count = batch.num_anchors
        negatives = [2 * count + n for n, owner in enumerate(batch.negative_owner) if owner == i]
        rows = {"anchor": [i], "positive": [count + i], "negatives": negatives}
        return {
            "example": batch.examples[i],
            "anchor": example.anchor,
            "positive": example.positive,
            "negatives": list(example.negatives),
            "token_ids": {k: [batch.token_ids[r] for r in v] for k, v in rows.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts for the checkpoint, so that a resumed run gives up where it would."""
        return {"num_left_out": self.num_left_out, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Sets the counts from a checkpoint."""
        self.num_left_out = state_dict["num_left_out"]
        self._in_a_row = state_dict["in_a_row"]


def _own_gradients(module: pl.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """Yields the gradients that this rank has, of spread weights its own part."""
    for name, parameter in module.named_parameters():
        gradient: Any = parameter.grad
        if gradient is not None:
            yield name, gradient.to_local() if hasattr(gradient, "to_local") else gradient
