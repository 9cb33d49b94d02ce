from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedllm.errors import DataError
from embedllm.evaluation.probes.logistic import LOGISTIC_PENALTIES, LogisticProbe
from embedllm.evaluation.probes.protocol import ProbeData

SEED = 1111
PROBE = LogisticProbe(num_folds=4, num_inner_folds=3)
KINDS = ("cross_validation", "train_dev_test", "train_test")
SIZES = {
    "cross_validation": {"all": 240},
    "train_dev_test": {"train": 160, "dev": 80, "test": 90},
    "train_test": {"train": 160, "test": 90},
}


def make_data(kind: str, *, num_classes: int = 2, noise: float = 4.0) -> ProbeData:
    """Returns vectors with shifted dimensions of very different size that half explain labels."""
    random = np.random.default_rng(num_classes)
    directions = random.standard_normal((24, num_classes))
    sizes, shifts = np.exp(2 * random.standard_normal(24)), 5 * random.standard_normal(24)
    features, labels = {}, {}
    for split, size in SIZES[kind].items():
        rows = random.standard_normal((size, 24))
        logits = rows @ directions + noise * random.standard_normal((size, num_classes))
        labels[split] = logits.argmax(axis=1)
        features[split] = ((rows + shifts) * sizes).astype(np.float32)
    return ProbeData(
        name="toy",
        kind=kind,  # type: ignore[arg-type]
        num_classes=num_classes,
        features=features,
        labels=labels,
    )


def search(folds: Any) -> GridSearchCV:
    """Returns scikit-learn's own search: scaler and classifier refitted for every fold and C."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=10_000))
    return GridSearchCV(
        pipeline, {"logisticregression__C": list(LOGISTIC_PENALTIES)}, cv=folds, scoring="accuracy"
    )


def float64(features: NDArray[np.float32]) -> NDArray[np.float64]:
    return features.astype(np.float64)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_nested_cross_validation_is_that_of_scikit_learn(num_classes: int) -> None:
    data = make_data("cross_validation", num_classes=num_classes)
    x, y = float64(data.features["all"]), data.labels["all"]
    inner = StratifiedKFold(3, shuffle=True, random_state=SEED)
    penalties, devs, tests = [], [], []
    for train, test in StratifiedKFold(4, shuffle=True, random_state=SEED).split(x, y):
        found = search(inner).fit(x[train], y[train])
        penalties.append(found.best_params_["logisticregression__C"])
        devs.append(found.best_score_)
        tests.append(found.score(x[test], y[test]))
    score = PROBE.score(data, seed=SEED)
    assert score.penalties == tuple(penalties)
    assert score.accuracy == round(100 * float(np.mean(tests)), 2)
    assert score.dev_accuracy == round(100 * float(np.mean(devs)), 2)
    assert len(set(penalties)) > 1
    assert 100 / num_classes + 5 < score.accuracy < 95


def test_folds_of_train_are_those_of_scikit_learn() -> None:
    data = make_data("train_test", num_classes=3)
    folds = StratifiedKFold(4, shuffle=True, random_state=SEED)
    found = search(folds).fit(float64(data.features["train"]), data.labels["train"])
    score = PROBE.score(data, seed=SEED)
    assert score.penalties == (found.best_params_["logisticregression__C"],)
    assert score.dev_accuracy == round(100 * found.best_score_, 2)
    expected = found.score(float64(data.features["test"]), data.labels["test"])
    assert score.accuracy == round(100 * expected, 2)
    assert (score.num_train, score.num_test) == (160, 90)


def test_a_dev_split_chooses_and_is_not_trained_on() -> None:
    data = make_data("train_dev_test")
    x = float64(np.concatenate([data.features["train"], data.features["dev"]]))
    y = np.concatenate([data.labels["train"], data.labels["dev"]])
    found = search(PredefinedSplit([-1] * 160 + [0] * 80))
    found.refit = False
    found.fit(x, y)
    best = found.cv_results_["params"][found.best_index_]
    final = search(None).estimator.set_params(**best).fit(x[:160], y[:160])
    score = PROBE.score(data, seed=SEED)
    assert score.penalties == (best["logisticregression__C"],)
    assert score.dev_accuracy == round(100 * found.cv_results_["mean_test_score"].max(), 2)
    expected = final.score(float64(data.features["test"]), data.labels["test"])
    assert score.accuracy == round(100 * expected, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_repeat(kind: str) -> None:
    data = make_data(kind)
    first = PROBE.score(data, seed=3)
    np.random.seed(5)
    second = PROBE.score(data, seed=3)
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


def test_the_seed_decides_the_folds_only() -> None:
    folded = {PROBE.score(make_data("cross_validation"), seed=seed).accuracy for seed in range(4)}
    given = {PROBE.score(make_data("train_dev_test"), seed=seed).accuracy for seed in range(4)}
    assert len(folded) > 1
    assert len(given) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_shift_and_size_of_dimensions_do_not_matter(kind: str) -> None:
    data = make_data(kind)
    random = np.random.default_rng(9)
    # Powers of two, so that float32 changes by the shift alone.
    sizes = 2.0 ** random.integers(-6, 6, 24)
    moved = {
        split: ((float64(rows) + 3.0) * sizes).astype(np.float32)
        for split, rows in data.features.items()
    }
    first = PROBE.score(data, seed=SEED)
    second = PROBE.score(replace(data, features=moved), seed=SEED)
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


def test_penalties_matter() -> None:
    data = make_data("train_test")
    scores = {
        penalty: LogisticProbe(num_folds=4, penalties=(penalty,)).score(data, seed=SEED)
        for penalty in LOGISTIC_PENALTIES
    }
    devs = [score.dev_accuracy for score in scores.values()]
    assert len(set(devs)) > 2
    chosen = PROBE.score(data, seed=SEED)
    assert chosen.dev_accuracy == max(devs)
    # The first of equals.
    assert chosen.penalties == (LOGISTIC_PENALTIES[devs.index(max(devs))],)
    assert chosen.accuracy == scores[chosen.penalties[0]].accuracy


def test_separable_classes_are_separated_and_noise_is_not_learned() -> None:
    data = make_data("cross_validation", num_classes=3, noise=0.0)
    random = np.random.default_rng(1)
    noise = replace(data, labels={"all": random.permutation(data.labels["all"])})
    assert PROBE.score(data, seed=SEED).accuracy > 90
    assert PROBE.score(noise, seed=SEED).accuracy < 45


def test_fits_that_end_early_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    data = make_data("train_test")
    with caplog.at_level(logging.WARNING, logger="embedllm"):
        PROBE.score(data, seed=SEED)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="embedllm"):
        replace(PROBE, max_iter=1).score(data, seed=SEED)
    [record] = caplog.records
    assert "of 25 fits of probe.name=logistic ended before their minimum" in record.getMessage()


def test_constant_dimensions_are_harmless() -> None:
    data = make_data("train_test")
    score = PROBE.score(data, seed=SEED)
    padded = {
        split: np.concatenate([rows, np.full((len(rows), 3), 7, np.float32)], axis=1)
        for split, rows in data.features.items()
    }
    found = PROBE.score(replace(data, features=padded), seed=SEED)
    assert found.accuracy == score.accuracy


def test_too_few_examples_of_a_class_are_refused() -> None:
    data = make_data("cross_validation")
    rare = np.flatnonzero(data.labels["all"] == 1)[3:]
    data.labels["all"][rare] = 0
    with pytest.raises(DataError, match=r"class 1 has 3 of 240.*4 folds with 3 inner"):
        PROBE.score(data, seed=SEED)


def test_a_class_that_is_missing_from_train_is_refused() -> None:
    data = make_data("train_dev_test")
    data.labels["train"][:] = 1
    with pytest.raises(DataError, match="class 0 has 0 of 160 training examples"):
        PROBE.score(data, seed=SEED)
