"""What a probe is given, what it returns, and what it is.

A probe is a logistic regression on the frozen vectors of one task. Vectors go in as the encoder
gave them: no row is normalised. A probe that conditions its solver by scaling columns fits the
scaler on training rows alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedllm.errors import ModelError

ProbeKind = Literal["cross_validation", "train_dev_test", "train_test"]

SPLITS_OF_PROBE_KIND: Final = MappingProxyType(
    {
        "cross_validation": ("all",),
        "train_dev_test": ("train", "dev", "test"),
        "train_test": ("train", "test"),
    }
)


@dataclass(frozen=True)
class ProbeData:
    """The vectors and labels of one task.

    The order of the rows decides, with the seed, which rows share a fold and a batch.

    Attributes:
        name: task name, for messages.
        kind: `cross_validation` (split `all`), `train_dev_test` or `train_test`.
        num_classes: labels are 0 to num_classes - 1.
        features: per split of the kind, float32 [N, D], finite, one D for all splits.
        labels: per split, int64 [N].

    Raises:
        ModelError: a vector has a NaN or an infinity.
        ValueError: splits, shapes, dtypes or labels are not as described.
    """

    name: str
    kind: ProbeKind
    num_classes: int
    features: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[np.int64]]

    def __post_init__(self) -> None:
        expected = set(SPLITS_OF_PROBE_KIND[self.kind])
        if set(self.features) != expected or set(self.labels) != expected:
            raise ValueError(
                f"{self.name}, kind {self.kind}: found features of {sorted(self.features)} and "
                f"labels of {sorted(self.labels)}, expected both of {sorted(expected)}."
            )
        for split in SPLITS_OF_PROBE_KIND[self.kind]:
            self._check_split(split)
        widths = {split: features.shape[1] for split, features in self.features.items()}
        if len(set(widths.values())) != 1:
            raise ValueError(f"{self.name}: the splits have different widths: {widths}.")

    def _check_split(self, split: str) -> None:
        features, labels = self.features[split], self.labels[split]
        where = f"{self.name}, split {split}"
        if features.ndim != 2 or labels.shape != (len(features),) or features.size == 0:
            raise ValueError(
                f"{where}: features {features.shape} and labels {labels.shape}, "
                "expected [N, D] and [N], neither N nor D zero."
            )
        if features.dtype != np.float32 or labels.dtype != np.int64:
            raise ValueError(
                f"{where}: {features.dtype} features, {labels.dtype} labels, "
                "expected float32 and int64."
            )
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"{where}: labels {labels.min()} to {labels.max()}, "
                f"expected 0 to {self.num_classes - 1}."
            )
        num_broken = int((~np.isfinite(features).all(axis=1)).sum())
        if num_broken:
            raise ModelError(
                f"{where}: {num_broken} of {len(features)} vectors have a NaN or an infinity, so "
                "no classifier can be trained on them. Half precision that overflows does this: "
                "set model.dtype=float32 or model.dtype=bfloat16."
            )


@dataclass(frozen=True)
class ProbeScore:
    """The result of a probe on one task.

    Attributes:
        name: task name.
        probe: name of the probe.
        accuracy: test accuracy in percent, 0-100, rounded to two decimals; for cross-validation
            the mean over the outer folds.
        dev_accuracy: likewise, of the chosen penalties on the rows that they were chosen on.
        penalty_grid: penalties tried, in order; weight decays (larger is stronger) for
            `senteval`, C (larger is weaker) for `logistic`.
        penalties: chosen penalty of every tested classifier: one per outer fold, else one.
        num_train: rows that classifiers are trained on; all rows for cross-validation.
        num_test: rows that the accuracy is over; all rows for cross-validation.
        seconds: wall time.
    """

    name: str
    probe: str
    accuracy: float
    dev_accuracy: float
    penalty_grid: tuple[float, ...]
    penalties: tuple[float, ...]
    num_train: int
    num_test: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the score as JSON types."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


class Probe(Protocol):
    """What the transfer tasks need of a classifier."""

    @property
    def name(self) -> str:
        """The value of `probe.name` that selects it."""
        ...

    def score(self, data: ProbeData, *, seed: int) -> ProbeScore:
        """Returns the accuracy on one task; the same for the same data and seed.

        Runs in this process alone and communicates nothing.

        Raises:
            DataError: a class has too few examples for the folds.
        """
        ...


def pair_features(u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns |u - v| and then u * v of the vectors of pairs, [N, 2D], as SentEval's MRPC does.

    Args:
        u: vectors of the first sentences, float32 [N, D].
        v: vectors of the second sentences, float32 [N, D].

    Raises:
        ValueError: the arrays are not two-dimensional or differ in shape.
    """
    if u.ndim != 2 or u.shape != v.shape:
        raise ValueError(f"Expected two arrays of one shape [N, D], got {u.shape} and {v.shape}.")
    return np.concatenate([np.abs(u - v), u * v], axis=1)
