"""The default probe: scikit-learn's logistic regression, the penalty chosen by cross-validation.

Multinomial, with an L2 penalty, minimised by L-BFGS until no component of the gradient of the mean
loss exceeds 1e-5. The problem is convex and solved to its minimum, so the result depends on data,
folds and penalty alone: there is no early stopping, no order of batches and no random start.

| kind | tasks | C chosen by | classifier that is tested |
| --- | --- | --- | --- |
| `cross_validation` | MR, CR, SUBJ, MPQA | inner folds of each outer fold | fitted on outer fold |
| `train_dev_test` | SST2 | the dev split | fitted on train |
| `train_test` | TREC, MRPC | folds of train | fitted on train |

Decisions:

- Rows are not normalised, but columns are standardised, by mean and deviation of the training
  rows alone (of the inner ones, when C is chosen). Dimensions of language models differ in size
  by orders of magnitude; without it L-BFGS needs many times the steps, and what C means changes
  from model to model. Scores do not change when a dimension is shifted or scaled.
- C is one of 1e-5, 1e-4, ..., 1. With standardised columns 1e-3 to 1 is chosen at 768 dimensions,
  and wider vectors take smaller values; going on to 100 changed no accuracy by more than 0.01
  and took twice the time.
- 5 inner folds: accuracies around the best of a grid of decades differ by tenths of a point, which
  more folds do not resolve (mean of MR, CR and SUBJ with 3, 5, 10 inner folds, on TF-IDF vectors:
  80.69, 80.61, 80.70).
- The grid is walked from small to large C, each solution the start of the next (same minimum,
  fewer steps). Of equal accuracies the smallest C, the strongest penalty, wins.
- float32, as the vectors are. Scores are those of float64 up to single examples, in half the
  memory.

Deterministic: folds have the seed of the run; the number of threads can change sums in the last
digits.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from embedllm.evaluation.probes.folds import Fold, Rows, check_class_sizes, split_rows
from embedllm.evaluation.probes.protocol import SPLITS_OF_PROBE_KIND, ProbeData, ProbeScore
from embedllm.log import get_logger
from embedllm.progress import progress_bar

_log = get_logger(__name__)

LOGISTIC_PENALTIES: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class LogisticProbe:
    """scikit-learn's logistic regression; see the module docstring.

    Attributes:
        num_folds: folds of `cross_validation`, and of `train_test`.
        num_inner_folds: folds in which `cross_validation` chooses C.
        penalties: values of C to choose from, from small to large.
        tolerance: largest gradient component of the mean loss at which a fit is done.
        max_iter: most L-BFGS steps of a fit; a warning says when they were not enough.
    """

    name: ClassVar[str] = "logistic"
    num_folds: int = 10
    num_inner_folds: int = 5
    penalties: tuple[float, ...] = LOGISTIC_PENALTIES
    tolerance: float = 1e-5
    max_iter: int = 1000

    def score(self, data: ProbeData, *, seed: int) -> ProbeScore:
        """Returns the accuracy on one task; the same for the same data, seed and thread count.

        Args:
            data: vectors and labels.
            seed: of the folds; without effect on `train_dev_test`, which has none.

        Raises:
            DataError: a class has too few examples for the folds.
        """
        start = time.monotonic()
        splits = SPLITS_OF_PROBE_KIND[data.kind]
        nested = data.kind == "cross_validation"
        check_class_sizes(
            data.name,
            data.labels[splits[0]],
            num_classes=data.num_classes,
            num_folds=1 if data.kind == "train_dev_test" else self.num_folds,
            num_inner_folds=self.num_inner_folds if nested else 0,
        )
        num_grids = {
            "cross_validation": self.num_folds * self.num_inner_folds,
            "train_dev_test": 1,
            "train_test": self.num_folds,
        }[data.kind]
        num_fits = num_grids * len(self.penalties) + (self.num_folds if nested else 1)
        with progress_bar(f"{data.name}: {self.name}", total=num_fits, unit="fits") as advance:
            run = _Run(data, self, seed, advance)
            dev, test, penalties = {
                "cross_validation": run.cross_validate,
                "train_dev_test": run.use_dev_split,
                "train_test": run.cross_validate_train,
            }[data.kind]()
        if run.num_unconverged:
            _log.warning(
                "%s: %d of %d fits of probe.name=logistic ended before their minimum (%d steps); "
                "the accuracy may differ by some hundredths from that of the minimum.",
                data.name,
                run.num_unconverged,
                num_fits,
                self.max_iter,
            )
        return ProbeScore(
            name=data.name,
            probe=self.name,
            accuracy=round(100 * test, 2),
            dev_accuracy=round(100 * dev, 2),
            penalty_grid=self.penalties,
            penalties=penalties,
            num_train=len(data.labels[splits[0]]),
            num_test=len(data.labels[splits[-1]]),
            seconds=round(time.monotonic() - start, 2),
        )


class _Run:
    """One call of the probe. Public methods return dev and test accuracy, 0-1, and penalties."""

    def __init__(
        self, data: ProbeData, probe: LogisticProbe, seed: int, advance: Callable[[int], None]
    ) -> None:
        self._data, self._probe, self._seed, self._advance = data, probe, seed, advance
        self.num_unconverged = 0

    def cross_validate(self) -> tuple[float, float, tuple[float, ...]]:
        whole = self._part("all")
        devs, tests, penalties = [], [], []
        for fold in self._split(np.arange(len(whole)), whole, self._probe.num_folds):
            inner = self._split(fold.train_rows, whole, self._probe.num_inner_folds)
            penalty, dev = self._choose(
                [self._score_grid(whole, inner_fold) for inner_fold in inner]
            )
            train, held_out = whole.take(fold.train_rows), whole.take(fold.held_out_rows)
            tests.append(self._score(train, held_out, [penalty])[0])
            devs.append(dev)
            penalties.append(penalty)
        return float(np.mean(devs)), float(np.mean(tests)), tuple(penalties)

    def cross_validate_train(self) -> tuple[float, float, tuple[float, ...]]:
        train = self._part("train")
        folds = self._split(np.arange(len(train)), train, self._probe.num_folds)
        penalty, dev = self._choose([self._score_grid(train, fold) for fold in folds])
        return dev, self._score(train, self._part("test"), [penalty])[0], (penalty,)

    def use_dev_split(self) -> tuple[float, float, tuple[float, ...]]:
        train = self._part("train")
        penalty, dev = self._choose([self._score(train, self._part("dev"), self._probe.penalties)])
        return dev, self._score(train, self._part("test"), [penalty])[0], (penalty,)

    def _part(self, split: str) -> _Part:
        return _Part(self._data.features[split], self._data.labels[split])

    def _split(self, rows: Rows, part: _Part, num_folds: int) -> list[Fold]:
        return split_rows(rows, part.labels, num_folds=num_folds, seed=self._seed)

    def _score_grid(self, part: _Part, fold: Fold) -> list[float]:
        train, held_out = part.take(fold.train_rows), part.take(fold.held_out_rows)
        return self._score(train, held_out, self._probe.penalties)

    def _score(self, train: _Part, held_out: _Part, penalties: Sequence[float]) -> list[float]:
        """Returns the accuracies on the held-out rows of classifiers with these penalties."""
        # Here because importing scikit-learn takes a second.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(train.features)
        scaled, scaled_held_out = (
            scaler.transform(train.features),
            scaler.transform(held_out.features),
        )
        classifier = LogisticRegression(
            solver="lbfgs",
            tol=self._probe.tolerance,
            max_iter=self._probe.max_iter,
            warm_start=True,
        )
        scores = []
        for penalty in penalties:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                classifier.set_params(C=penalty).fit(scaled, train.labels)
            self.num_unconverged += any(w.category is ConvergenceWarning for w in caught)
            scores.append(float(classifier.score(scaled_held_out, held_out.labels)))
            self._advance(1)
        return scores

    def _choose(self, scores: Sequence[Sequence[float]]) -> tuple[float, float]:
        """Returns the penalty with the best mean accuracy over folds, and that accuracy."""
        # Rounded, so that the last digits of a sum do not decide between equal accuracies.
        means = np.array(scores).mean(axis=0).round(9)
        best = int(means.argmax())
        return self._probe.penalties[best], float(means[best])


@dataclass(frozen=True)
class _Part:
    """Some rows of a task: features [n, D] and labels [n]."""

    features: NDArray[np.float32]
    labels: Rows

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> _Part:
        return _Part(self.features[rows], self.labels[rows])
