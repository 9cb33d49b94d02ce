from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from embedllm.errors import DataError
from embedllm.evaluation.probes.batched_classifier import fit_classifiers, init_linear, predict
from embedllm.evaluation.probes.fits import ClassifierSettings, EarlyStopping, Fit, hold_out
from embedllm.evaluation.probes.protocol import ProbeData
from embedllm.evaluation.probes.senteval import SENTEVAL_PENALTIES, SentEvalProbe

# Weights of one training in float32 against another order of sums.
WEIGHT_TOLERANCE = 1e-5
SEED = 1111
# A width whose products MKL sums in one order, whatever is multiplied beside them.
WIDTH = 256
QUICK = ClassifierSettings(tenacity=2, epoch_size=2, max_epoch=20)


def make_rows(num_rows: int, width: int = WIDTH, num_classes: int = 2) -> tuple[Tensor, Tensor]:
    """Returns features with a few large dimensions, and labels that they half explain."""
    generator = torch.Generator().manual_seed(num_rows)
    features = torch.randn(num_rows, width, generator=generator)
    features[:, :3] *= 20
    directions = torch.randn(width, num_classes, generator=generator)
    noise = 10 * torch.randn(num_rows, num_classes, generator=generator)
    return features, (features @ directions + noise).argmax(dim=1)


def make_fit(rows: Sequence[int], num_dev: int, penalties: tuple[float, ...]) -> Fit:
    array = np.array(rows)
    return Fit(array[num_dev:], array[:num_dev], penalties)


@dataclass(frozen=True)
class Alone:
    """A classifier that was trained by itself."""

    model: nn.Linear
    dev_accuracy: float
    num_rounds: int

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        return float((self.model(features).argmax(dim=1) == labels).double().mean())


def train_alone(
    features: Tensor, labels: Tensor, fit: Fit, penalty: float, options: ClassifierSettings
) -> Alone:
    """Trains one classifier with torch's own Linear, loss, autograd and Adam, step by step."""
    random = np.random.RandomState(SEED)
    if fit.num_drawn:
        random.permutation(fit.num_drawn)
    torch.manual_seed(SEED)
    model = nn.Linear(features.shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, weight_decay=penalty)
    train_x, train_y = features[fit.train_rows], labels[fit.train_rows]
    best, best_accuracy, failures, passes, rounds = model, -1.0, 0, 0, 0
    while passes <= options.max_epoch:
        for _ in range(options.epoch_size):
            order = random.permutation(len(train_x))
            for start in range(0, len(order), options.batch_size):
                batch = order[start : start + options.batch_size]
                optimizer.zero_grad()
                nn.CrossEntropyLoss()(model(train_x[batch]), train_y[batch]).backward()
                optimizer.step()
        passes += options.epoch_size
        rounds += 1
        right = model(features[fit.dev_rows]).argmax(dim=1) == labels[fit.dev_rows]
        accuracy = int(right.sum()) / len(fit.dev_rows)
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(model), accuracy
        else:
            failures += 1
            if failures > options.tenacity:
                break
    return Alone(best, best_accuracy, rounds)


def mixed_fits(num_rows: int) -> list[Fit]:
    """Fits of three sizes, two grids and both ways to hold out, in no helpful order."""
    order = np.random.RandomState(0).permutation(num_rows)
    rows = np.arange(num_rows)
    return [
        make_fit(order, 30, SENTEVAL_PENALTIES),
        hold_out(rows, ratio=0.1, seed=SEED, penalties=(1e-2,)),
        make_fit(order[::-1], 31, SENTEVAL_PENALTIES),
        make_fit(order[:130], 20, (0.0, 1.0)),
        make_fit(np.roll(order, 50), 30, SENTEVAL_PENALTIES),
    ]


@pytest.mark.parametrize("num_classes", [2, 6])
def test_side_by_side_equals_one_at_a_time(num_classes: int) -> None:
    features, labels = make_rows(230, num_classes=num_classes)
    fits = mixed_fits(len(features))
    together = fit_classifiers(
        features, labels, fits=fits, num_classes=num_classes, seed=SEED, settings=QUICK
    )
    rounds = []
    for fit, fitted in zip(fits, together, strict=True):
        for index, penalty in enumerate(fit.penalties):
            alone = train_alone(features, labels, fit, penalty, QUICK)
            weight, bias = alone.model.weight.detach(), alone.model.bias.detach()
            torch.testing.assert_close(fitted.weight[index], weight, rtol=0, atol=WEIGHT_TOLERANCE)
            torch.testing.assert_close(fitted.bias[index], bias, rtol=0, atol=WEIGHT_TOLERANCE)
            assert fitted.dev_accuracy[index] == alone.dev_accuracy
            assert fitted.num_rounds[index] == alone.num_rounds
            rounds.append(alone.num_rounds)
    # Early stopping differs between classifiers, and the weights have moved.
    assert len(set(rounds)) > 2
    start, _ = init_linear(WIDTH, num_classes, seed=SEED)
    assert (together[0].weight - start).abs().max() > 100 * WEIGHT_TOLERANCE


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL's order of sums")
def test_weights_are_bitwise_those_of_one_at_a_time() -> None:
    features, labels = make_rows(230)
    # Sums that cancel, so that another order of them would show.
    features = features * 100
    fits = mixed_fits(len(features))
    together = fit_classifiers(
        features, labels, fits=fits, num_classes=2, seed=SEED, settings=QUICK
    )
    for fit, fitted in zip(fits, together, strict=True):
        for index, penalty in enumerate(fit.penalties):
            alone = train_alone(features, labels, fit, penalty, QUICK)
            assert torch.equal(fitted.weight[index], alone.model.weight)
            assert torch.equal(fitted.bias[index], alone.model.bias)


def test_the_held_out_part_begins_the_stream() -> None:
    rows = np.arange(100, 159)
    stream = np.random.RandomState(SEED)
    drawn = rows[stream.permutation(59)]
    fit = hold_out(rows, ratio=0.05, seed=SEED, penalties=(1e-3,))
    # 5% of 59 are 2.95 rows, cut to 2; the others stay in the order in which they were drawn.
    assert fit.dev_rows.tolist() == drawn[:2].tolist()
    assert fit.train_rows.tolist() == drawn[2:].tolist()
    assert (fit.penalties, fit.num_drawn) == ((1e-3,), 59)


def test_chunks_do_not_change_results() -> None:
    features, labels = make_rows(230)
    fits = mixed_fits(len(features))

    def run(max_gather_mib: int) -> list[object]:
        options = replace(QUICK, max_gather_mib=max_gather_mib)
        fitted = fit_classifiers(
            features, labels, fits=fits, num_classes=2, seed=SEED, settings=options
        )
        return [[f.weight, f.bias, f.dev_accuracy.tolist(), f.num_rounds.tolist()] for f in fitted]

    # 0 leaves one fit in a chunk.
    torch.testing.assert_close(run(0), run(8), rtol=0, atol=WEIGHT_TOLERANCE)


def test_start_is_that_of_a_linear_layer() -> None:
    torch.manual_seed(SEED)
    layer = nn.Linear(37, 5)
    weight, bias = init_linear(37, 5, seed=SEED)
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, layer.bias)


def test_predictions_are_those_of_each_classifier() -> None:
    features, _ = make_rows(50)
    weight, bias = torch.randn(3, 4, WIDTH), torch.randn(3, 4)
    rows = np.array([7, 3, 3, 49])
    found = predict(features, rows, weight=weight, bias=bias)
    expected = [(features[rows] @ w.T + b).argmax(dim=1) for w, b in zip(weight, bias, strict=True)]
    assert torch.equal(found, torch.stack(expected, dim=1))


def test_the_count_of_failures_is_never_reset() -> None:
    stopping = EarlyStopping((1, 1), tenacity=2)
    # Fails in rounds 2, 4 and 6 with improvements in between; the third failure ends it.
    for accuracy in (0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.9):
        stopping.update(np.array([[accuracy]]))
    assert stopping.num_rounds.item() == 6
    assert stopping.best.item() == 0.7


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1), min_size=1, max_size=4),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_early_stopping_is_that_of_a_plain_loop(curves: list[list[float]], tenacity: int) -> None:
    # Classifiers stop independently; their curves are as long as the shortest.
    length = min(map(len, curves))
    stopping = EarlyStopping((1, len(curves)), tenacity=tenacity)
    improved = [stopping.update(np.array([[c[i] for c in curves]])) for i in range(length)]
    for position, curve in enumerate(curves):
        best, failures, rounds, improvements = -1.0, 0, 0, []
        for accuracy in curve[:length]:
            if failures > tenacity:
                break
            rounds += 1
            improvements.append(accuracy > best)
            failures += accuracy <= best
            best = max(best, accuracy)
        assert stopping.best[0, position] == best
        assert stopping.num_rounds[0, position] == rounds
        assert stopping.is_active[0, position] == (failures <= tenacity)
        assert [bool(i[0, position]) for i in improved][:rounds] == improvements


@pytest.mark.parametrize(
    ("epoch_size", "max_epoch", "num_rounds"), [(4, 200, 51), (4, 8, 3), (4, 7, 2), (2, 0, 1)]
)
def test_a_round_starts_while_not_more_than_the_most_passes_are_done(
    epoch_size: int, max_epoch: int, num_rounds: int
) -> None:
    options = ClassifierSettings(tenacity=1000, epoch_size=epoch_size, max_epoch=max_epoch)
    features, labels = make_rows(20, width=16)
    fit = make_fit(range(20), 5, (0.0,))
    [fitted] = fit_classifiers(
        features, labels, fits=[fit], num_classes=2, seed=SEED, settings=options
    )
    assert fitted.num_rounds.tolist() == [num_rounds]
    assert train_alone(features, labels, fit, 0.0, options).num_rounds == num_rounds


def test_progress_ends_at_the_total() -> None:
    features, labels = make_rows(230)
    fits = mixed_fits(len(features))
    counts: list[int] = []
    fit_classifiers(
        features,
        labels,
        fits=fits,
        num_classes=2,
        seed=SEED,
        settings=QUICK,
        advance=counts.append,
    )
    assert sum(counts) == QUICK.max_rounds * sum(len(fit.penalties) for fit in fits)
    assert len(counts) > 3
    assert min(counts) > 0


def test_stronger_penalties_give_smaller_weights() -> None:
    features, labels = make_rows(230)
    options = replace(QUICK, tenacity=1000)
    [fitted] = fit_classifiers(
        features,
        labels,
        fits=[make_fit(range(230), 40, (0.0, 1.0, 10.0, 100.0))],
        num_classes=2,
        seed=SEED,
        settings=options,
    )
    norms = fitted.weight[:, :, 3:].norm(dim=(1, 2))
    assert (norms.diff() < -0.01).all()


# The whole probe, on small data with few folds, against plain loops.

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
