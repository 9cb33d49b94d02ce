from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from embedllm.errors import DataError, ModelError
from embedllm.evaluation.probes.folds import check_class_sizes, split_rows
from embedllm.evaluation.probes.protocol import ProbeData, ProbeScore, pair_features


def make_data(**changes: Any) -> ProbeData:
    values: dict[str, Any] = {
        "name": "toy",
        "kind": "train_test",
        "num_classes": 2,
        "features": {split: np.ones((3, 4), np.float32) for split in ("train", "test")},
        "labels": {split: np.array([0, 1, 0]) for split in ("train", "test")},
    }
    return ProbeData(**(values | changes))


def test_pair_features_are_difference_then_product() -> None:
    u = np.array([[1.0, -2.0]], np.float32)
    v = np.array([[3.0, 0.5]], np.float32)
    found = pair_features(u, v)
    np.testing.assert_array_equal(found, [[2.0, 2.5, 3.0, -1.0]])
    np.testing.assert_array_equal(found, pair_features(v, u))
    assert found.dtype == np.float32


def test_pair_features_refuse_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 1\)"):
        pair_features(np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cross_validation"}, r"expected both of \['all'\]"),
        ({"num_classes": 1}, "labels 0 to 1, expected 0 to 0"),
        ({"features": {"train": np.ones((3, 4)), "test": np.ones((3, 4))}}, "float64 features"),
        (
            {
                "features": {
                    "train": np.ones((3, 4), np.float32),
                    "test": np.ones((3, 5), np.float32),
                }
            },
            "different widths: .'train': 4, 'test': 5",
        ),
        ({"labels": {"train": np.array([0, 1]), "test": np.array([0, 1, 0])}}, r"\(2,\)"),
    ],
)
def test_data_that_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    make_data()
    with pytest.raises(ValueError, match=message):
        make_data(**changes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_vectors_are_the_models_fault(value: float) -> None:
    features = make_data().features
    features["test"][1, 2] = value
    with pytest.raises(ModelError, match=r"toy, split test: 1 of 3 vectors.*model\.dtype"):
        make_data(features=features)


def test_a_score_survives_json() -> None:
    score = ProbeScore("MR", "senteval", 81.25, 82.0, (1e-5, 1e-4), (1e-4,) * 3, 100, 100, 1.5)
    record = json.loads(json.dumps(score.to_dict()))
    assert record["penalties"] == [1e-4] * 3
    assert ProbeScore(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}) == (
        score
    )


@given(st.integers(0, 60), st.integers(2, 6), st.sampled_from([0, 2, 3, 5]))
def test_class_sizes_are_enough_exactly_when_every_fold_has_every_class(
    size: int, num_folds: int, num_inner_folds: int
) -> None:
    labels = np.array([0] * 60 + [1] * size)
    try:
        check_class_sizes(
            "toy", labels, num_classes=2, num_folds=num_folds, num_inner_folds=num_inner_folds
        )
    except DataError:
        enough = False
    else:
        enough = True
    # What StratifiedKFold does to the labels decides.
    expected = size >= num_folds
    if expected:
        folds = list(StratifiedKFold(num_folds).split(labels, labels))
        expected = all((labels[train] == 1).sum() >= num_inner_folds for train, _ in folds)
    assert enough == expected


def test_class_size_message_names_numbers_and_keys() -> None:
    with pytest.raises(DataError) as caught:
        check_class_sizes(
            "CR", np.array([0] * 50 + [1] * 11), num_classes=2, num_folds=10, num_inner_folds=10
        )
    assert str(caught.value) == (
        "CR: class 1 has 11 of 61 training examples, but 10 folds with 10 inner folds each need "
        "at least 12 of every class. Use a complete copy of the task (evaluation.data_dir) or a "
        "smaller probe.num_folds."
    )


def test_rows_of_a_subset_are_split_as_positions_in_the_whole() -> None:
    labels = np.array([0, 1] * 20)
    rows = np.arange(40)[::-3].copy()
    folds = split_rows(rows, labels, num_folds=3, seed=5)
    held_out = np.concatenate([fold.held_out_rows for fold in folds])
    assert sorted(held_out) == sorted(rows)
    for fold in folds:
        assert sorted([*fold.train_rows, *fold.held_out_rows]) == sorted(rows)
    again = split_rows(rows, labels, num_folds=3, seed=5)
    other = split_rows(rows, labels, num_folds=3, seed=6)
    assert all(map(np.array_equal, held_out, np.concatenate([f.held_out_rows for f in again])))
    assert not np.array_equal(folds[0].held_out_rows, other[0].held_out_rows)
