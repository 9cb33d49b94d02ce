"""The classifier of the SentEval probe once more, one at a time and step by step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from embedllm.evaluation.probes.fits import ClassifierSettings, Fit

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
    """Returns a fit that holds out the first rows."""
    array = np.array(rows)
    return Fit(array[num_dev:], array[:num_dev], penalties)


@dataclass(frozen=True)
class Alone:
    """A classifier that was trained by itself."""

    model: nn.Linear
    dev_accuracy: float
    num_rounds: int

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Returns the share of rows that it gives their label."""
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
