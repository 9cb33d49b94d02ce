"""Random numbers of a step that depend on nothing but the seed and the step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl

from embedllm.random_state import set_seed


class StepSeed(pl.Callback):
    """Seeds torch anew before every micro-batch, the same on all ranks.

    Dropout then depends on (seed, epoch, batch) alone. A resumed run draws what the
    uninterrupted one would have drawn, without saving generator states, and an evaluation in
    between changes nothing.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds CPU and GPU generators."""
        key = (self._seed, trainer.current_epoch, batch_idx)
        state = np.random.SeedSequence(key).generate_state(1, dtype=np.uint64)
        set_seed(int(state[0]), pl_module.device)
