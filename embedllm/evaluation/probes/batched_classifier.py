"""Trains many of SentEval's linear classifiers at once, as one batched problem.

SentEval (Conneau and Kiela 2018, arXiv 1803.05449) trains one softmax regression at a time. What
one training does, and what is kept here to the last detail (its `tools/classifier.py`):

1. Weights start as torch's Linear layer starts them; the seed is set anew for every classifier.
2. A pass over the training rows goes through them in a fresh random order, in batches of
   `batch_size`, the last one smaller. Adam minimises the mean cross-entropy of a batch; weight
   decay is added to the gradient (L2, not decoupled), also for the bias. The moments live on
   from pass to pass.
3. After every `epoch_size` passes (here: a round) the accuracy on the dev rows is taken. A better
   one is kept with its weights. One that is not better is a failure: the first `tenacity`
   failures are counted, the next one ends the training. An improvement does not reset the count.
4. A round starts as long as no more than `max_epoch` passes are done, so with rounds of 4 and
   at most 200 passes, 204 are possible.

How it is made fast:

- The orders of (2) come from numpy's legacy stream with the seed set anew, so all classifiers with
  as many training rows have the same ones. Those of a fit (one fold, all penalties) gather a
  batch of rows once. Fits of one size, of which a task has a few, are trained side by side: one
  batched product per penalty, everything else elementwise over all classifiers.
- A fit leaves the batch when all its penalties have stopped. One that has stopped earlier goes on
  for nothing and keeps its best weights; measured on four tasks that is 1-6% of the work.
- Fits are trained in chunks whose gathered batches fit into `max_gather_mib`; beyond the caches
  of a CPU the same work takes half as long again.

And how it stays exact. Vectors of language models have dimensions far larger than the rest, and
with them the training is chaotic: a relative change of 1e-7 in the vectors, the rounding of
float32, moved SentEval's own accuracy on MRPC by up to 1.4 points. So rounding matters, and every
sum is taken as SentEval takes it: products of the same shape with the same sides transposed, the
loss and Adam by the same kernels of torch (not its fused Adam). One product for all penalties of
a fit would be twice as fast, and is not done for that reason. On a CPU and one thread, with a
width that is a multiple of 16, the weights are then bitwise SentEval's.

Shapes: N rows, D width, C classes, K fits in a chunk, P penalties of a fit, n training rows, b
rows of a batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim.adam import adam

from embedllm.evaluation.probes.fits import ClassifierSettings, EarlyStopping, Fit, Fitted
from embedllm.evaluation.probes.folds import Rows


def fit_classifiers(
    features: Tensor,
    labels: Tensor,
    *,
    fits: Sequence[Fit],
    num_classes: int,
    seed: int,
    settings: ClassifierSettings,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Fitted]:
    """Trains the classifiers of all fits and returns them in order.

    Args:
        features: float32 [N, D].
        labels: int64 [N].
        fits: what to train, rows as positions in `features`.
        num_classes: labels are 0 to num_classes - 1.
        seed: of the initial weights and of the batches.
        settings: how to train.
        advance: called with the number of rounds that were done, or left out by stopping early;
            `settings.max_rounds` for every classifier in the end.
    """
    cohorts: dict[tuple[int, tuple[float, ...], int], list[int]] = defaultdict(list)
    for index, fit in enumerate(fits):
        cohorts[len(fit.train_rows), fit.penalties, fit.num_drawn].append(index)
    bytes_per_fit = settings.batch_size * features.shape[1] * features.element_size()
    chunk_size = max(1, settings.max_gather_mib * 2**20 // bytes_per_fit)
    fitted: dict[int, Fitted] = {}
    with torch.no_grad():
        for indexes in cohorts.values():
            # Chunks of nearly one size: a small rest would be slow.
            num_chunks = math.ceil(len(indexes) / chunk_size)
            for part in np.array_split(indexes, num_chunks):
                chunk = _Chunk(
                    features,
                    labels,
                    fits=[fits[index] for index in part],
                    num_classes=num_classes,
                    seed=seed,
                    settings=settings,
                )
                fitted.update(zip(part.tolist(), chunk.train(advance), strict=True))
    return [fitted[index] for index in range(len(fits))]


def predict(features: Tensor, rows: Rows, *, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns the predicted classes of rows, int64 [n, P], of classifiers [P, C, D], [P, C]."""
    predicted = []
    # Blocks, because the rows are copied: 32 MiB at a time.
    block_size = max(1, 2**25 // (features.shape[1] * features.element_size()))
    for block in torch.from_numpy(rows).split(block_size):
        batch = features[block]
        # One product each, so that close decisions fall as in SentEval.
        classes = [F.linear(batch, w, b).argmax(dim=1) for w, b in zip(weight, bias, strict=True)]
        predicted.append(torch.stack(classes, dim=1))
    return torch.cat(predicted)


class _Chunk:
    """Fits with equally many training rows and the same penalties, trained side by side.

    `_alive` lists the fits that still train; `_rows` [K, n], `_weight` [P, K, C, D], `_bias`
    [P, K, C] and the moments have one entry for each of them, in that order.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        fits: Sequence[Fit],
        num_classes: int,
        seed: int,
        settings: ClassifierSettings,
    ) -> None:
        self._features, self._labels = features, labels
        self._fits, self._settings = fits, settings
        self._penalties = fits[0].penalties
        self._random = np.random.RandomState(seed)
        if fits[0].num_drawn:
            self._random.permutation(fits[0].num_drawn)
        self._alive: NDArray[np.int64] = np.arange(len(fits))
        self._rows = torch.from_numpy(np.stack([fit.train_rows for fit in fits]))
        weight, bias = init_linear(features.shape[1], num_classes, seed=seed)
        self._weight = weight.repeat(len(self._penalties), len(fits), 1, 1)
        self._bias = bias.repeat(len(self._penalties), len(fits), 1)
        self._means = [torch.zeros_like(self._weight), torch.zeros_like(self._bias)]
        self._squares = [torch.zeros_like(self._weight), torch.zeros_like(self._bias)]
        self._steps = [torch.tensor(0.0), torch.tensor(0.0)]
        self._best_weight, self._best_bias = self._weight.clone(), self._bias.clone()
        self._buffer = features.new_empty(len(fits) * settings.batch_size, features.shape[1])

    def train(self, advance: Callable[[int], None]) -> list[Fitted]:
        """Trains until every classifier has stopped."""
        shape = (len(self._penalties), len(self._fits))
        stopping = EarlyStopping(shape, tenacity=self._settings.tenacity)
        for remaining in range(self._settings.max_rounds - 1, -1, -1):
            for _ in range(self._settings.epoch_size):
                self._train_pass()
            num_active = int(stopping.is_active.sum())
            self._keep(stopping.update(self._score_dev(shape)))
            num_stopped = num_active - int(stopping.is_active.sum())
            advance(num_active + remaining * num_stopped)
            self._drop_stopped(stopping.is_active)
            if not len(self._alive):
                break
        return [
            Fitted(
                stopping.best[:, i],
                self._best_weight[:, i],
                self._best_bias[:, i],
                stopping.num_rounds[:, i],
            )
            for i in range(len(self._fits))
        ]

    def _train_pass(self) -> None:
        permutation = torch.from_numpy(self._random.permutation(self._rows.shape[1]))
        for rows in self._rows[:, permutation].split(self._settings.batch_size, dim=1):
            self._step(rows)

    def _step(self, rows: Tensor) -> None:
        """Moves all classifiers by one batch, rows [K, b]."""
        flat = rows.reshape(-1)
        batch = torch.index_select(self._features, 0, flat, out=self._buffer[: len(flat)])
        batch = batch.view(*rows.shape, -1)
        errors = self._differentiate(batch, self._labels[flat])
        parameters = [self._weight, self._bias]
        gradients = [torch.empty_like(self._weight), errors.sum(dim=2)]
        for index, penalty in enumerate(self._penalties):
            torch.bmm(errors[index].mT, batch, out=gradients[0][index])
            # Here because Adam's own weight decay is one number for a whole tensor.
            for gradient, parameter in zip(gradients, parameters, strict=True):
                gradient[index].add_(parameter[index], alpha=penalty)
        adam(
            parameters,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            foreach=False,
            fused=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._settings.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def _differentiate(self, batch: Tensor, targets: Tensor) -> Tensor:
        """Returns the gradients of the mean losses by the logits, [P, K, b, C].

        Args:
            batch: [K, b, D].
            targets: labels of the batch, [K * b].
        """
        num_penalties, num_fits, num_classes, _ = self._weight.shape
        logits = batch.new_empty(num_penalties, num_fits, batch.shape[1], num_classes)
        for out, weight, bias in zip(logits, self._weight, self._bias, strict=True):
            torch.baddbmm(bias.unsqueeze(1), batch, weight.mT, out=out)
        with torch.enable_grad():
            logits.requires_grad_()
            losses = F.cross_entropy(
                logits.flatten(0, 2), targets.repeat(num_penalties), reduction="sum"
            )
            # The sum over classifiers with this factor is the mean over the batch of each.
            factor = torch.tensor(1 / batch.shape[1])
            (errors,) = torch.autograd.grad(losses, logits, factor)
        return errors

    def _score_dev(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Returns dev accuracies [P, K] of all fits; 0 for those that are not alive."""
        accuracy = np.zeros(shape)
        for position, index in enumerate(self._alive.tolist()):
            rows = self._fits[index].dev_rows
            predicted = predict(
                self._features,
                rows,
                weight=self._weight[:, position],
                bias=self._bias[:, position],
            )
            right = predicted == self._labels[rows].unsqueeze(1)
            accuracy[:, index] = right.sum(dim=0).numpy() / len(rows)
        return accuracy

    def _keep(self, improved: NDArray[np.bool_]) -> None:
        mask = torch.from_numpy(improved[:, self._alive])
        for best, current in (
            (self._best_weight, self._weight),
            (self._best_bias, self._bias),
        ):
            kept = best[:, self._alive]
            kept[mask] = current[mask]
            best[:, self._alive] = kept

    def _drop_stopped(self, is_active: NDArray[np.bool_]) -> None:
        stays = is_active[:, self._alive].any(axis=0)
        if stays.all():
            return
        mask = torch.from_numpy(stays)
        self._alive = self._alive[stays]
        self._rows = self._rows[mask]
        self._weight, self._bias = self._weight[:, mask], self._bias[:, mask]
        self._means = [moment[:, mask] for moment in self._means]
        self._squares = [moment[:, mask] for moment in self._squares]


def init_linear(width: int, num_classes: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Returns weight [C, D] and bias [C] as `torch.manual_seed(seed); nn.Linear(...)` has them.

    A generator of its own leaves the global one alone.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(num_classes, width)
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(width)
    return weight, torch.empty(num_classes).uniform_(-bound, bound, generator=generator)
