"""What SentEval's classifiers are trained on, with what and until when.

How they are trained is in `batched_classifier`, with the rules and the letters of the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from embedllm.evaluation.probes.folds import Rows


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is trained; the defaults are SentEval's, in the mode that is reported.

    Attributes:
        batch_size: rows per step.
        tenacity: failures to improve that are tolerated, over the whole training.
        epoch_size: passes over the training rows between two looks at the dev rows.
        max_epoch: passes after which no further round starts.
        learning_rate: Adam's; torch's default, as in SentEval.
        max_gather_mib: largest memory of the rows that are gathered for one step.
    """

    batch_size: int = 64
    tenacity: int = 5
    epoch_size: int = 4
    max_epoch: int = 200
    learning_rate: float = 1e-3
    max_gather_mib: int = 8

    @property
    def max_rounds(self) -> int:
        """Most looks at the dev rows that a training can have."""
        return self.max_epoch // self.epoch_size + 1


@dataclass(frozen=True)
class Fit:
    """Classifiers that share their rows and differ in the penalty.

    Attributes:
        train_rows: rows to train on, [n]; batches are drawn by position in it.
        dev_rows: rows for early stopping.
        penalties: one weight decay per classifier.
        num_drawn: size of a permutation that was drawn from the stream before training (to
            choose the dev rows), 0 for none. See `hold_out`.
    """

    train_rows: Rows
    dev_rows: Rows
    penalties: tuple[float, ...]
    num_drawn: int = 0


@dataclass(frozen=True)
class Fitted:
    """The trained classifiers of a fit, each as it was in its best round.

    Attributes:
        dev_accuracy: fraction of the dev rows that is right, float64 [P].
        weight: [P, C, D].
        bias: [P, C].
        num_rounds: rounds until it stopped, [P].
    """

    dev_accuracy: NDArray[np.float64]
    weight: Tensor
    bias: Tensor
    num_rounds: NDArray[np.int64]

    def select(self, index: int) -> Fitted:
        """Returns the classifier of one penalty, as a fit with that one alone."""
        part = slice(index, index + 1)
        return Fitted(
            self.dev_accuracy[part], self.weight[part], self.bias[part], self.num_rounds[part]
        )


def hold_out(rows: Rows, *, ratio: float, seed: int, penalties: tuple[float, ...]) -> Fit:
    """Returns the fit that holds out a random part of the rows for early stopping.

    As in SentEval the part is the beginning of a permutation, the training rows keep its order,
    and the permutation is the first thing drawn from the stream of the training.
    """
    permutation = np.random.RandomState(seed).permutation(len(rows))
    num_dev = int(ratio * len(rows))
    return Fit(
        rows[permutation[num_dev:]],
        rows[permutation[:num_dev]],
        penalties,
        num_drawn=len(rows),
    )


class EarlyStopping:
    """SentEval's rule of when to stop, for classifiers of any shape at once.

    Attributes:
        best: best accuracy so far, -1 before the first round.
        is_active: which classifiers train on.
        num_rounds: rounds that each has trained.
    """

    def __init__(self, shape: tuple[int, int], *, tenacity: int) -> None:
        self.best = np.full(shape, -1.0)
        self.is_active = np.ones(shape, dtype=bool)
        self.num_rounds = np.zeros(shape, dtype=np.int64)
        self._num_failures = np.zeros(shape, dtype=np.int64)
        self._tenacity = tenacity

    def update(self, accuracy: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Takes the accuracies of a round and returns which active classifiers improved."""
        improved: NDArray[np.bool_] = self.is_active & (accuracy > self.best)
        failed = self.is_active & ~improved
        self.num_rounds += self.is_active
        self.best = np.where(improved, accuracy, self.best)
        # Compared before it is counted, so tenacity 5 stops at the sixth failure.
        self.is_active = self.is_active & ~(failed & (self._num_failures >= self._tenacity))
        self._num_failures += failed
        return improved
