"""The whole probe, on small data with few folds, against plain loops."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plain_classifier import QUICK, SEED, Alone, make_rows, train_alone
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from embedllm.errors import DataError
from embedllm.evaluation.probes.fits import Fit
from embedllm.evaluation.probes.protocol import ProbeData
from embedllm.evaluation.probes.senteval import SENTEVAL_PENALTIES, SentEvalProbe

NUM_FOLDS = 3
PROBE = SentEvalProbe(num_folds=NUM_FOLDS, settings=QUICK)


def make_data(kind: str, num_classes: int = 2) -> ProbeData:
    sizes = {
        "cross_validation": {"all": 121},
        "train_dev_test": {"train": 150, "dev": 41, "test": 43},
        "train_test": {"train": 131, "test": 43},
    }[kind]
    features, labels = make_rows(sum(sizes.values()), width=32, num_classes=num_classes)
    parts = dict(zip(sizes, features.split(list(sizes.values())), strict=True))
    targets = dict(zip(sizes, labels.split(list(sizes.values())), strict=True))
    return ProbeData(
        name="toy",
        kind=kind,  # type: ignore[arg-type]
        num_classes=num_classes,
        features={split: part.numpy().copy() for split, part in parts.items()},
        labels={split: target.numpy().copy() for split, target in targets.items()},
    )


def choose_alone(
    x: Tensor, y: Tensor, rows: NDArray[np.int64], fold_seed: int
) -> tuple[float, float]:
    """Returns the penalty with the best rounded mean accuracy over folds, and that mean."""
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=fold_seed)
    scores = []
    for penalty in SENTEVAL_PENALTIES:
        accuracies = [
            train_alone(x, y, Fit(rows[a], rows[b], ()), penalty, QUICK).dev_accuracy
            for a, b in folds.split(rows, y[rows])
        ]
        scores.append(round(100 * sum(accuracies) / NUM_FOLDS, 2))
    return SENTEVAL_PENALTIES[scores.index(max(scores))], max(scores)


def train_final(x: Tensor, y: Tensor, rows: NDArray[np.int64], penalty: float) -> Alone:
    order = np.random.RandomState(SEED).permutation(len(rows))
    num_dev = int(0.05 * len(rows))
    fit = Fit(rows[order[num_dev:]], rows[order[:num_dev]], (), num_drawn=len(rows))
    return train_alone(x, y, fit, penalty, QUICK)


def test_nested_cross_validation_is_that_of_plain_loops() -> None:
    data = make_data("cross_validation")
    x, y = torch.from_numpy(data.features["all"]), torch.from_numpy(data.labels["all"])
    penalties, devs, tests = [], [], []
    for train, test in StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=1111).split(x, y):
        penalty, dev = choose_alone(x, y, train, 1111)
        final = train_final(x, y, train, penalty)
        penalties.append(penalty)
        devs.append(dev)
        tests.append(round(100 * final.accuracy(x[test], y[test]), 2))
    score = PROBE.score(data, seed=SEED)
    assert score.penalties == tuple(penalties)
    assert score.accuracy == round(sum(tests) / NUM_FOLDS, 2)
    assert score.dev_accuracy == round(sum(devs) / NUM_FOLDS, 2)
    assert (score.num_train, score.num_test) == (121, 121)
    assert len(set(tests)) > 1
    assert 50 < score.accuracy < 100


def test_folds_of_train_are_those_of_plain_loops() -> None:
    data = make_data("train_test", num_classes=3)
    x, y = torch.from_numpy(data.features["train"]), torch.from_numpy(data.labels["train"])
    rows = np.arange(len(x))
    penalty, dev = choose_alone(x, y, rows, SEED)
    final = train_final(x, y, rows, penalty)
    test = torch.from_numpy(data.features["test"]), torch.from_numpy(data.labels["test"])
    score = PROBE.score(data, seed=SEED)
    assert score.penalties == (penalty,)
    assert score.dev_accuracy == dev
    assert score.accuracy == round(100 * final.accuracy(*test), 2)
    assert (score.num_train, score.num_test) == (131, 43)


def test_a_dev_split_serves_for_choice_and_early_stopping() -> None:
    data = make_data("train_dev_test")
    x = torch.from_numpy(np.concatenate([data.features["train"], data.features["dev"]]))
    y = torch.from_numpy(np.concatenate([data.labels["train"], data.labels["dev"]]))
    fit = Fit(np.arange(150), np.arange(150, 191), SENTEVAL_PENALTIES)
    alone = [train_alone(x, y, fit, penalty, QUICK) for penalty in SENTEVAL_PENALTIES]
    devs = [a.dev_accuracy for a in alone]
    best = devs.index(max(devs))
    test = torch.from_numpy(data.features["test"]), torch.from_numpy(data.labels["test"])
    score = PROBE.score(data, seed=SEED)
    assert score.penalties == (SENTEVAL_PENALTIES[best],)
    assert score.dev_accuracy == round(100 * devs[best], 2)
    assert score.accuracy == round(100 * alone[best].accuracy(*test), 2)
    assert (score.num_train, score.num_test) == (150, 43)


@pytest.mark.parametrize("kind", ["cross_validation", "train_dev_test", "train_test"])
def test_scores_repeat_and_leave_everything_else_alone(kind: str) -> None:
    data = make_data(kind)
    before = copy.deepcopy(data.features)
    for features in data.features.values():
        features.flags.writeable = False
    torch.manual_seed(3)
    np.random.seed(3)
    first = PROBE.score(data, seed=7)
    drawn = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(4)
    np.random.seed(4)
    second = PROBE.score(data, seed=7)
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    torch.manual_seed(3)
    np.random.seed(3)
    assert drawn == (torch.rand(1).item(), np.random.rand())
    for split, features in before.items():
        np.testing.assert_array_equal(data.features[split], features)


def test_the_seed_decides_the_result() -> None:
    data = make_data("train_test")
    scores = {(s.accuracy, s.dev_accuracy) for s in (PROBE.score(data, seed=i) for i in range(4))}
    assert len(scores) > 1


def test_too_few_examples_of_a_class_are_refused() -> None:
    data = make_data("cross_validation")
    rare = np.flatnonzero(data.labels["all"] == 1)[4:]
    data.labels["all"][rare] = 0
    with pytest.raises(DataError, match=r"toy: class 1 has 4 of 121.*3 inner.*at least 5"):
        PROBE.score(data, seed=SEED)


def test_a_class_that_is_missing_from_train_is_refused() -> None:
    data = make_data("train_dev_test")
    data.labels["train"][:] = 0
    with pytest.raises(DataError, match="class 1 has 0 of 150 training examples, but a classifier"):
        PROBE.score(data, seed=SEED)


def test_too_few_rows_for_the_held_out_part_are_refused() -> None:
    data = make_data("train_test")
    data.labels["train"][:] = np.arange(131) % 2
    tiny = ProbeData(
        name="toy",
        kind="train_test",
        num_classes=2,
        features={"train": data.features["train"][:18], "test": data.features["test"]},
        labels={"train": data.labels["train"][:18], "test": data.labels["test"]},
    )
    with pytest.raises(DataError, match=r"5% of 18 training examples.*probe\.name=logistic"):
        PROBE.score(tiny, seed=SEED)
