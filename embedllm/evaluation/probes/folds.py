"""Stratified folds of rows, and the check that every class is large enough for them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedllm.errors import DataError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows to train on and rows to score, both as positions in the whole matrix, in order."""

    train_rows: Rows
    held_out_rows: Rows


def split_rows(rows: Rows, labels: Rows, *, num_folds: int, seed: int) -> list[Fold]:
    """Returns the folds of some rows by scikit-learn's shuffled StratifiedKFold.

    Args:
        rows: positions in the whole matrix, [n]; their order matters.
        labels: labels of the whole matrix, [N].
        num_folds: number of folds.
        seed: decides the folds, together with the order of the rows.
    """
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    return [
        Fold(rows[train], rows[held_out])
        for train, held_out in splitter.split(np.zeros(len(rows)), labels[rows])
    ]


def check_class_sizes(
    name: str, labels: Rows, *, num_classes: int, num_folds: int, num_inner_folds: int = 0
) -> None:
    """Checks that every fold, and every inner fold of it, can have every class.

    Args:
        name: task name, for the message.
        labels: labels of the rows that are split, [N].
        num_classes: number of classes.
        num_folds: number of folds; 1 if nothing is split.
        num_inner_folds: number of folds into which each fold's training rows are split again.

    Raises:
        DataError: a class has fewer examples than that needs.
    """
    minimum = _min_class_size(num_folds, num_inner_folds)
    sizes = np.bincount(labels, minlength=num_classes)
    smallest = int(sizes.argmin())
    if sizes[smallest] >= minimum:
        return
    inner = f" with {num_inner_folds} inner folds each" if num_inner_folds else ""
    need = f"{num_folds} folds{inner} need" if num_folds > 1 else "a classifier needs"
    smaller = " or a smaller probe.num_folds" if num_folds > 1 else ""
    raise DataError(
        f"{name}: class {smallest} has {sizes[smallest]} of {len(labels)} training examples, but "
        f"{need} at least {minimum} of every class. Use a complete copy of the task "
        f"(evaluation.data_dir){smaller}."
    )


def _min_class_size(num_folds: int, num_inner_folds: int) -> int:
    """A fold holds out at most ceil(size / num_folds) of a class; the rest is split again."""
    return next(
        size
        for size in itertools.count(num_folds)
        if size - math.ceil(size / num_folds) >= num_inner_folds
    )
