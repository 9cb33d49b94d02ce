"""Scores the dev task while training and keeps the best adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torchmetrics import SpearmanCorrCoef

from embedllm.distributed import main_only, share_from_main
from embedllm.errors import CheckpointError
from embedllm.evaluation.tasks import PairTask
from embedllm.log import get_logger
from embedllm.models.encoder import SentenceEncoder
from embedllm.ranks import current_rank
from embedllm.training.module import ContrastiveModule

_log = get_logger(__name__)


class DevScore(pl.Callback):
    """Every n steps and at the last one: Spearman on the dev task, best adapter saved.

    A tie goes to the later step (paper_method 3.5). Unlike the reference, the last step is
    always a candidate. Each best adapter gets a folder of its own name, so a kill leaves a complete
    one. That which the newest checkpoint calls the best stays beside it: a run that goes on from
    there may score a later step otherwise, where steps are not repeated to the bit.

    Args:
        encoder: The encoder that is being trained.
        task: The dev task.
        every_n_steps: Distance of the scores in optimizer steps.
        folder: Where the best adapter's folder goes.
        save: Writes an adapter folder: (path, step, score).
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        task: PairTask,
        *,
        every_n_steps: int,
        folder: Path,
        save: Callable[[Path, int, float], None],
    ) -> None:
        self._encoder = encoder
        self._task = task
        self._every = every_n_steps
        self._folder = folder
        self._save = save
        self._metric = SpearmanCorrCoef()
        self._scored_step = -1
        self._saved_step: int | None = None
        self.best_score: float | None = None
        self.best_step: int | None = None

    @property
    def best_folder(self) -> Path:
        """Folder of the best adapter so far.

        Raises:
            CheckpointError: No step was scored, or the folder is gone.
        """
        folder = self._path(self.best_step) if self.best_step is not None else self._folder
        if self.best_step is None or not folder.is_dir():
            raise CheckpointError(
                f"the best adapter is not at {folder}; start the run under another run_name"
            )
        return folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets a best adapter that somebody took away, so that a later one is kept."""
        if self.best_step is None:
            return
        folder = self._path(self.best_step)
        if not share_from_main(main_only(folder.is_dir)):
            _log.warning("the best adapter is not at %s; a later one takes its place", folder)
            self.best_score = self.best_step = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remembers which adapter the newest checkpoint calls the best."""
        self._saved_step = self.best_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Scores when it is due, once per optimizer step."""
        assert isinstance(pl_module, ContrastiveModule)
        step = trainer.global_step
        due = step > 0 and (step % self._every == 0 or step == pl_module.total_steps)
        if not due or step == self._scored_step:
            return
        self._scored_step = step
        value = self._score(step, pl_module.total_steps)
        is_best = self.best_score is None or value >= self.best_score
        if is_best:
            self._keep(step, value)
        for logger in trainer.loggers:
            logger.log_metrics({f"dev/{self._task.name}": value}, step=step)
        _log.info(
            "step %d/%d  %s %.2f%s",
            step,
            pl_module.total_steps,
            self._task.name,
            value,
            "  (best so far)" if is_best else f"  (best {self.best_score:.2f})",
        )

    def _score(self, step: int, total: int) -> float:
        """Returns 100 times Spearman over all pairs, of which each rank encodes a part."""
        pairs = list(self._task.subsets.values())
        left = [s for subset in pairs for s in subset.sentence1]
        right = [s for subset in pairs for s in subset.sentence2]
        gold = [s for subset in pairs for s in subset.scores]
        rank = current_rank()
        own = slice(rank.rank, None, rank.world_size)
        left, right, gold = left[own], right[own], gold[own]
        label = f"{self._task.name} at step {step}/{total}"
        vectors = torch.from_numpy(self._encoder.encode(left + right, progress=label))
        first, second = vectors.double().split([len(left), len(right)])
        self._metric.reset()
        self._metric.update(F.cosine_similarity(first, second), torch.tensor(gold).double())
        # The metric puts the pairs of all ranks together: a mean of the ranks' own correlations
        # would be another number.
        return 100 * float(self._metric.compute())

    def _keep(self, step: int, value: float) -> None:
        self._save(self._path(step), step, value)
        self.best_score, self.best_step = value, step
        named = {self._path(s) for s in (step, self._saved_step) if s is not None}
        main_only(partial(self._remove_others, named))

    def _remove_others(self, named: set[Path]) -> None:
        for other in set(self._folder.iterdir()) - named:
            shutil.rmtree(other, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def state_dict(self) -> dict[str, Any]:
        """Returns the best score and step for the checkpoint."""
        return {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "scored_step": self._scored_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Sets the best score and step from a checkpoint."""
        self.best_score = state_dict["best_score"]
        self.best_step = self._saved_step = state_dict["best_step"]
        self._scored_step = state_dict["scored_step"]
