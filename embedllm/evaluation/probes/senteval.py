"""The probe of SentEval: its classifiers, folds and rounding, with all classifiers trained at once.

Follows `tools/validation.py` of SentEval (Conneau and Kiela 2018, arXiv 1803.05449), which made
the published numbers (PromptEOL, arXiv 2307.16645):

| kind | tasks | penalty chosen by | classifier that is tested |
| --- | --- | --- | --- |
| `cross_validation` | MR, CR, SUBJ, MPQA | inner folds of each outer fold | trained on outer fold |
| `train_dev_test` | SST2 | the dev split | the chosen one |
| `train_test` | TREC, MRPC | folds of train | trained on train |

- Every inner classifier is stopped early on, and scored on, the rows that it did not train on.
- The classifiers of the last column hold out 5% of their rows for early stopping; for SST2 the
  dev split serves. SentEval trains SST2's chosen classifier a second time; the same seed gives
  the same one.
- The folds of `cross_validation` have SentEval's fixed seed 1111 at both levels, those of
  `train_test` the seed of the run, which is also that of the classifiers (the reference: 1111).
- The accuracy of a penalty is rounded to two decimals before the best is taken, ties go to the
  weaker penalty, and so is every fold's test accuracy before the mean.

The same folds as SentEval's need the same order of rows: it sorts the examples by length and
never puts them back. With the same vectors in that order, on a CPU and one thread, accuracies are
SentEval's own to the last digit (`benchmarks/probe_senteval.py` compares them). More threads, a
GPU or another order of the columns take float32 sums in another order, for SentEval as for this
probe, and the training amplifies the difference; see `batched_classifier`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedllm.errors import DataError
from embedllm.evaluation.probes.batched_classifier import fit_classifiers, predict
from embedllm.evaluation.probes.fits import ClassifierSettings, Fit, Fitted, hold_out
from embedllm.evaluation.probes.folds import Fold, Rows, check_class_sizes, split_rows
from embedllm.evaluation.probes.protocol import SPLITS_OF_PROBE_KIND, ProbeData, ProbeScore
from embedllm.progress import progress_bar

SENTEVAL_PENALTIES: Final = (1e-5, 1e-4, 1e-3, 1e-2)
# Written out in SentEval's nested cross-validation, whatever the seed of the run.
NESTED_FOLD_SEED: Final = 1111
HELD_OUT_RATIO: Final = 0.05


@dataclass(frozen=True)
class SentEvalProbe:
    """SentEval's logistic regression with Adam; see the module docstring.

    Attributes:
        num_folds: folds of `cross_validation`, at both levels, and of `train_test`.
        penalties: weight decays to choose from.
        settings: how a classifier is trained.
    """

    name: ClassVar[str] = "senteval"
    num_folds: int = 10
    penalties: tuple[float, ...] = SENTEVAL_PENALTIES
    settings: ClassifierSettings = field(default_factory=ClassifierSettings)

    def score(self, data: ProbeData, *, seed: int) -> ProbeScore:
        """Returns the accuracy on one task; the same for the same data, seed and thread count.

        Args:
            data: vectors and labels; SentEval's folds need its order of rows.
            seed: of initial weights and batches, and of the folds of `train_test`.

        Raises:
            DataError: a class has too few examples for the folds.
        """
        start = time.monotonic()
        splits = SPLITS_OF_PROBE_KIND[data.kind]
        self._check(data)
        num_grids, num_finals = {
            "cross_validation": (self.num_folds**2, self.num_folds),
            "train_dev_test": (1, 0),
            "train_test": (self.num_folds, 1),
        }[data.kind]
        num_classifiers = num_grids * len(self.penalties) + num_finals
        with progress_bar(
            f"{data.name}: {num_classifiers} classifiers",
            total=num_classifiers * self.settings.max_rounds,
            unit="rounds",
        ) as advance:
            run = _Run(data, self, seed, advance)
            dev, test, penalties = {
                "cross_validation": run.cross_validate,
                "train_dev_test": run.use_dev_split,
                "train_test": run.cross_validate_train,
            }[data.kind]()
        return ProbeScore(
            name=data.name,
            probe=self.name,
            accuracy=test,
            dev_accuracy=dev,
            penalty_grid=self.penalties,
            penalties=penalties,
            num_train=len(data.labels[splits[0]]),
            num_test=len(data.labels[splits[-1]]),
            seconds=round(time.monotonic() - start, 2),
        )

    def _check(self, data: ProbeData) -> None:
        first = SPLITS_OF_PROBE_KIND[data.kind][0]
        nested = data.kind == "cross_validation"
        check_class_sizes(
            data.name,
            data.labels[first],
            num_classes=data.num_classes,
            num_folds=1 if data.kind == "train_dev_test" else self.num_folds,
            num_inner_folds=self.num_folds if nested else 0,
        )
        num_rows = len(data.labels[first])
        num_final = num_rows - -(-num_rows // self.num_folds) if nested else num_rows
        if data.kind != "train_dev_test" and int(HELD_OUT_RATIO * num_final) == 0:
            raise DataError(
                f"{data.name}: {HELD_OUT_RATIO:.0%} of {num_final} training examples is less than "
                "one, but probe.name=senteval stops early on them. Use a complete copy of the "
                "task (evaluation.data_dir) or probe.name=logistic."
            )


class _Run:
    """One call of the probe. Each method returns dev accuracy, test accuracy and penalties."""

    def __init__(
        self, data: ProbeData, probe: SentEvalProbe, seed: int, advance: Callable[[int], None]
    ) -> None:
        self._probe, self._seed = probe, seed
        self._features = {split: _to_tensor(rows) for split, rows in data.features.items()}
        self._labels = data.labels
        self._fit = partial(
            fit_classifiers,
            num_classes=data.num_classes,
            seed=seed,
            settings=probe.settings,
            advance=advance,
        )

    def cross_validate(self) -> tuple[float, float, tuple[float, ...]]:
        features, labels = self._features["all"], self._labels["all"]
        num_folds = self._probe.num_folds
        split = partial(split_rows, labels=labels, num_folds=num_folds, seed=NESTED_FOLD_SEED)
        outer = split(np.arange(len(labels)))
        inner = [fold for outer_fold in outer for fold in split(outer_fold.train_rows)]
        fitted = self._fit_grid(features, labels, inner)
        choices = [
            self._choose(fitted[start : start + num_folds])
            for start in range(0, len(fitted), num_folds)
        ]
        finals = self._fit(
            features,
            torch.from_numpy(labels),
            fits=[
                self._hold_out(fold.train_rows, penalty)
                for fold, (penalty, _) in zip(outer, choices, strict=True)
            ],
        )
        tests = [
            round(100 * _accuracy(features, labels, fold.held_out_rows, final), 2)
            for fold, final in zip(outer, finals, strict=True)
        ]
        dev = round(np.mean([dev for _, dev in choices]), 2)
        return float(dev), float(round(np.mean(tests), 2)), tuple(p for p, _ in choices)

    def cross_validate_train(self) -> tuple[float, float, tuple[float, ...]]:
        features, labels = self._features["train"], self._labels["train"]
        rows = np.arange(len(labels))
        folds = split_rows(rows, labels, num_folds=self._probe.num_folds, seed=self._seed)
        penalty, dev = self._choose(self._fit_grid(features, labels, folds))
        fit = self._hold_out(rows, penalty)
        [final] = self._fit(features, torch.from_numpy(labels), fits=[fit])
        return dev, self._score_test(final), (penalty,)

    def use_dev_split(self) -> tuple[float, float, tuple[float, ...]]:
        # One matrix for both, as fits refer to rows of one.
        features = torch.cat([self._features["train"], self._features["dev"]])
        labels = np.concatenate([self._labels["train"], self._labels["dev"]])
        rows = np.arange(len(labels))
        num_train = len(self._labels["train"])
        fold = Fold(rows[:num_train], rows[num_train:])
        [fitted] = self._fit_grid(features, labels, [fold])
        scores = [round(100 * accuracy, 2) for accuracy in fitted.dev_accuracy.tolist()]
        best = int(np.argmax(scores))
        test = self._score_test(fitted.select(best))
        return scores[best], test, (self._probe.penalties[best],)

    def _fit_grid(self, features: Tensor, labels: Rows, folds: Sequence[Fold]) -> list[Fitted]:
        fits = [Fit(fold.train_rows, fold.held_out_rows, self._probe.penalties) for fold in folds]
        return self._fit(features, torch.from_numpy(labels), fits=fits)

    def _choose(self, fitted: Sequence[Fitted]) -> tuple[float, float]:
        """Returns the penalty with the best mean dev accuracy over folds, and that in percent."""
        accuracies = np.stack([fold.dev_accuracy for fold in fitted], axis=1)
        # Lists keep numpy's summation that of SentEval, whose rounded values decide.
        scores = [round(100 * np.mean(row.tolist()), 2) for row in accuracies]
        best = int(np.argmax(scores))
        return self._probe.penalties[best], float(scores[best])

    def _hold_out(self, rows: Rows, penalty: float) -> Fit:
        return hold_out(rows, ratio=HELD_OUT_RATIO, seed=self._seed, penalties=(penalty,))

    def _score_test(self, final: Fitted) -> float:
        labels = self._labels["test"]
        rows = np.arange(len(labels))
        return round(100 * _accuracy(self._features["test"], labels, rows, final), 2)


def _accuracy(features: Tensor, labels: Rows, rows: Rows, final: Fitted) -> float:
    predicted = predict(features, rows, weight=final.weight, bias=final.bias)[:, 0].numpy()
    return int((predicted == labels[rows]).sum()) / len(rows)


def _to_tensor(features: NDArray[np.float32]) -> Tensor:
    # A read-only array (memory-mapped, frozen by a cache) cannot be shared with torch.
    if features.flags.writeable and features.flags.c_contiguous:
        return torch.from_numpy(features)
    return torch.from_numpy(features.copy(order="C"))
