"""Examples to contrastive batches of token ids, in an order that a run can resume exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from embedllm.data.schema import Example
from embedllm.errors import DataError
from embedllm.prefetch import prefetch

_BATCHES_AHEAD = 2


# Not frozen: with precision bf16-true Lightning copies the fields of whatever a batch is.
@dataclass
class ContrastiveBatch:
    """One contrastive batch: all its texts are candidates for all its anchors.

    Attributes:
        token_ids: Unpadded ids of N anchors, then N positives, then M hard negatives.
        num_anchors: N.
        negative_owner: For each hard negative the row of its anchor, in 0..N-1.
        examples: Numbers of its N examples among those trained on, from 0.
    """

    token_ids: list[list[int]]
    num_anchors: int
    negative_owner: tuple[int, ...]
    examples: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts, without padding."""
        return sum(map(len, self.token_ids))


class ContrastiveLoader:
    """Yields one epoch of batches per iteration and knows where it stands.

    The order of an epoch is a permutation made from the seed and the epoch's number, so the
    position is two numbers, and a resumed run sees exactly the batches that were left. The next
    batches are made on another thread while one is used; only those given out count for the
    position.

    Args:
        examples: Training examples.
        tokenize: Sentences to token ids. It runs on that thread, so it must be none that another
            one may be in (a fast tokenizer) and draw no random numbers.
        batch_size: Examples per batch.
        seed: Seed of the order.
        drop_last: Leave out the last batch when it is smaller. A last batch of one example is
            always left out: it has no in-batch negatives.

    Attributes:
        wait_seconds: How long whoever iterates has waited for batches, since the loader was made.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenize: Callable[[Sequence[str]], list[list[int]]],
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
    ) -> None:
        self._examples = examples
        self._tokenize = tokenize
        self._batch_size = batch_size
        self._seed = seed
        full, rest = divmod(len(examples), batch_size)
        self._num_batches = full + (rest > 1 and not drop_last)
        if self._num_batches == 0:
            raise DataError(
                f"{len(examples)} examples make no batch of {batch_size}; lower "
                "data.global_batch_size or set data.drop_last=false"
            )
        self._num_yielded = 0
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._num_batches

    def __iter__(self) -> Iterator[ContrastiveBatch]:
        """Yields what is left of the current epoch, or the whole next one."""
        with closing(prefetch(self._collate, self._rows_left(), depth=_BATCHES_AHEAD)) as batches:
            while (batch := self._wait_for_next(batches)) is not None:
                self._num_yielded += 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Returns the position: batches yielded since the run began."""
        return {"num_yielded": self._num_yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Sets the position; takes effect at the next iteration."""
        self._num_yielded = state["num_yielded"]

    def _rows_left(self) -> Iterator[np.ndarray]:
        """Yields the examples of each batch that is left of the current epoch."""
        epoch, start = divmod(self._num_yielded, self._num_batches)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._examples))
        for i in range(start, self._num_batches):
            yield order[i * self._batch_size : (i + 1) * self._batch_size]

    def _wait_for_next(self, batches: Iterator[ContrastiveBatch]) -> ContrastiveBatch | None:
        start = time.perf_counter()
        batch = next(batches, None)
        self.wait_seconds += time.perf_counter() - start
        return batch

    def _collate(self, rows: np.ndarray) -> ContrastiveBatch:
        examples = [self._examples[row] for row in rows]
        texts = [e.anchor for e in examples] + [e.positive for e in examples]
        owner = []
        for row, example in enumerate(examples):
            texts += example.negatives
            owner += [row] * len(example.negatives)
        numbers = tuple(rows.tolist())
        return ContrastiveBatch(self._tokenize(texts), len(examples), tuple(owner), numbers)
