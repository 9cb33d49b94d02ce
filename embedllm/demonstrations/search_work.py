"""Computes the units that a round of a search needs, together with any number of processes.

Nothing is sent between the processes: the files are the only state. All walk through the same
prompts, each from another place, skip what is there or claimed, and wait at the end for what
others still compute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedllm.config import PromptConfig
from embedllm.demonstrations.pair_order import build_pair_order
from embedllm.demonstrations.unit_store import UnitStore, prompt_key
from embedllm.errors import CheckpointError
from embedllm.evaluation.metrics import cosine_similarity_pairs, spearman
from embedllm.evaluation.tasks import PairTask
from embedllm.log import get_logger
from embedllm.models.encoder import SentenceEncoder
from embedllm.progress import progress_bar
from embedllm.prompts.template import build_prompt
from embedllm.ranks import Rank

_log = get_logger(__name__)

_POLL_SECONDS: Final = 0.2
_LOG_WAIT_SECONDS: Final = 60.0


class OrderedPairs:
    """The pairs of a task in the order in which a search scores them.

    Args:
        task: The task; its subsets are concatenated.
        seed: Seed of the order.
    """

    def __init__(self, task: PairTask, *, seed: int) -> None:
        subsets = list(task.subsets.values())
        gold = [score for subset in subsets for score in subset.scores]
        left = [sentence for subset in subsets for sentence in subset.sentence1]
        right = [sentence for subset in subsets for sentence in subset.sentence2]
        self.order: NDArray[np.int64] = build_pair_order(gold, seed=seed)
        self.sentence1 = [left[pair] for pair in self.order]
        self.sentence2 = [right[pair] for pair in self.order]
        self.gold = [gold[pair] for pair in self.order]

    def __len__(self) -> int:
        return len(self.gold)

    def score(self, similarities: NDArray[np.float64]) -> float:
        """Returns 100 x Spearman over the first pairs, as many as there are similarities."""
        return 100.0 * spearman(similarities, self.gold[: len(similarities)])


class Need(NamedTuple):
    """A prompt and on how many pairs of the order it is to be scored."""

    prompt: PromptConfig
    num_pairs: int


@dataclass(frozen=True)
class UnitWorker:
    """Computes missing units and reads scores from the store.

    Attributes:
        get_encoder: Returns the encoder; called only when there is something to compute.
        pairs: The ordered pairs.
        store: Where the units are.
        rank: This process.
    """

    get_encoder: Callable[[], SentenceEncoder]
    pairs: OrderedPairs
    store: UnitStore
    rank: Rank

    def compute(self, needs: Sequence[Need], *, label: str) -> None:
        """Returns when all units are there, whoever computed them.

        Args:
            needs: What is needed.
            label: Label of the progress bar.
        """
        keys = [prompt_key(need.prompt) for need in needs]
        missing = self._count_missing(needs, keys)
        left = self.rank.rotate([i for i, count in enumerate(missing) if count])
        if not left:
            return
        last_note = time.monotonic()
        num_missing = sum(missing)
        with self._progress(label, num_missing) as advance:
            while left:
                waiting = []
                for i in left:
                    if not self._is_done(needs[i], keys[i]):
                        waiting.append(i)
                    elif self.rank.is_main:
                        # Counted anew, so that rate and time left are those of all processes.
                        still_missing = sum(self._count_missing(needs, keys))
                        advance(num_missing - still_missing)
                        num_missing = still_missing
                if len(waiting) == len(left):
                    if time.monotonic() - last_note > _LOG_WAIT_SECONDS:
                        last_note = time.monotonic()
                        _log.info("%s: waiting for %d prompts of others", label, len(left))
                    time.sleep(_POLL_SECONDS)
                left = waiting

    def _count_missing(self, needs: Sequence[Need], keys: Sequence[str]) -> list[int]:
        """Returns for each need how many pairs nobody has scored yet."""
        return [
            sum(map(len, self.store.missing(key, need.num_pairs)))
            for key, need in zip(keys, needs, strict=True)
        ]

    def score(self, prompt: PromptConfig, num_pairs: int) -> float:
        """Returns 100 x Spearman of a prompt on the first pairs; its units must be there."""
        return self.pairs.score(self.similarities(prompt, num_pairs))

    def similarities(self, prompt: PromptConfig, num_pairs: int) -> NDArray[np.float64]:
        """Returns the similarities of a prompt on the first pairs; its units must be there."""
        found = self.store.read(prompt_key(prompt), num_pairs)
        if found is None:
            raise CheckpointError(
                f"units of {prompt_key(prompt)} vanished from {self.store.folder} or were damaged "
                "while the search ran; the same command computes them again"
            )
        return found

    def _progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Returns a bar in the main process; those of several would overwrite one another."""
        if self.rank.is_main:
            return progress_bar(label, total=total, unit="pairs")
        return nullcontext(lambda count: None)

    def _is_done(self, need: Need, key: str) -> bool:
        """Computes what a prompt lacks unless another process does; returns whether it is done."""
        if not self.store.missing(key, need.num_pairs):
            return True
        with self.store.claimed(key) as is_mine:
            if not is_mine:
                return False
            # Looked up anew: another process may have finished between the look and the claim.
            for gap in self.store.missing(key, need.num_pairs):
                encoder = self.get_encoder()
                start = time.perf_counter()
                self.store.write(key, gap, self._compute(encoder, need.prompt, gap))
                seconds = time.perf_counter() - start
                self.store.record(key, gap, seconds=seconds)
        return True

    def _compute(
        self, encoder: SentenceEncoder, prompt: PromptConfig, unit: range
    ) -> NDArray[np.float64]:
        rows = slice(unit.start, unit.stop)
        left, right = self.pairs.sentence1[rows], self.pairs.sentence2[rows]
        vectors = encoder.with_prompt(build_prompt(prompt)).encode([*left, *right])
        return cosine_similarity_pairs(vectors[: len(unit)], vectors[len(unit) :])
