"""Many classifiers side by side give what each of them gives alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_classifier import QUICK, SEED, WEIGHT_TOLERANCE, WIDTH, make_fit, make_rows, train_alone
from torch import nn

from embedllm.evaluation.probes.batched_classifier import fit_classifiers, init_linear, predict
from embedllm.evaluation.probes.fits import ClassifierSettings, EarlyStopping, Fit, hold_out
from embedllm.evaluation.probes.senteval import SENTEVAL_PENALTIES


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
