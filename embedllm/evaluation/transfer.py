"""Scores an encoder on a transfer task: a classifier on frozen vectors, its test accuracy.

Rows are in SentEval's order (`senteval_order`), which folds and batches of the probes depend on.
A sentence without words is encoded as it is: the prompt is filled with nothing, as the reference
script of PromptEOL (arXiv 2307.16645) does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedllm.config import ProbeConfig
from embedllm.evaluation.probes.protocol import Probe, ProbeData, pair_features
from embedllm.evaluation.scores import TaskScore
from embedllm.evaluation.sts import Encoder
from embedllm.evaluation.transfer_tasks import TransferSplit, TransferTask, senteval_order

# Beside the score, these say how it came about.
_DETAILS = ("dev_accuracy", "penalty_grid", "penalties", "num_train", "num_test")


def build_probe(config: ProbeConfig) -> Probe:
    """Returns the classifier that `probe.name` selects."""
    # Here, because one needs scikit-learn and the other torch.
    if config.name == "senteval":
        from embedllm.evaluation.probes.senteval import SentEvalProbe

        return SentEvalProbe(num_folds=config.num_folds)
    from embedllm.evaluation.probes.logistic import LogisticProbe

    return LogisticProbe(num_folds=config.num_folds)


def build_probe_data(task: TransferTask, vectors: Encoder) -> ProbeData:
    """Returns features and labels of every split, rows in SentEval's order.

    Args:
        task: the task.
        vectors: gives the vector of every sentence of the task.

    Raises:
        ModelError: a vector has a NaN or an infinity.
    """
    features, labels = {}, {}
    for name, split in task.splits.items():
        order = senteval_order(split)
        features[name] = _to_features(split, order, vectors)
        labels[name] = np.array([split.labels[row] for row in order], dtype=np.int64)
    return ProbeData(task.name, task.kind, task.num_classes, features, labels)


def score_transfer_task(
    task: TransferTask, vectors: Encoder, *, probe: Probe, num_folds: int, seed: int
) -> TaskScore:
    """Returns the test accuracy of a probe on one task.

    Args:
        task: the task.
        vectors: gives the vector of every sentence of the task.
        probe: the classifier.
        num_folds: its folds, for the record.
        seed: the run's; the published numbers have 1111.

    Raises:
        DataError: a class has too few examples for the folds.
        ModelError: a vector has a NaN or an infinity.
    """
    found = probe.score(build_probe_data(task, vectors), seed=seed)
    values = found.to_dict()
    return TaskScore(
        name=task.name,
        score=found.accuracy,
        metric="accuracy",
        num_examples=task.num_examples,
        probe=probe.name,
        details={**{key: values[key] for key in _DETAILS}, "num_folds": num_folds},
    )


def _to_features(split: TransferSplit, order: list[int], vectors: Encoder) -> NDArray[np.float32]:
    first = vectors.encode([split.sentence1[row] for row in order])
    if split.sentence2 is None:
        return first
    return pair_features(first, vectors.encode([split.sentence2[row] for row in order]))
