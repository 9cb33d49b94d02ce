"""What the page shows side by side: a base model, and the same with its adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from embedllm.errors import ModelError
from embedllm.log import get_logger
from embedllm.models.adapter_folder import read_description
from embedllm.models.adapters import adapter_off
from embedllm.models.configured import EncoderChoice
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.models.next_words import NextWord, NextWords

_log = get_logger(__name__)

BASE, FINE_TUNED = "Base model", "Fine-tuned"


@dataclass(frozen=True)
class Side:
    """One of the models on the page.

    Attributes:
        name: How the page calls it.
        encoder: Its encoder, which the other side may share.
        words: Its words; None where the vectors are not read where the head reads.
        scope: What all computing happens in.
    """

    name: str
    encoder: SentenceEncoder
    words: NextWords | None
    scope: Callable[[], AbstractContextManager[None]] = nullcontext

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float64]:
        """Returns vectors of length 1, [N, D]; their products are cosines."""
        with self.scope():
            vectors = self.encoder.encode(sentences).astype(np.float64)
        lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, np.finfo(np.float64).tiny)

    def most_likely(self, sentence: str, *, num_words: int) -> list[NextWord]:
        """Returns the words that the model would say, the likeliest first; none without `words`."""
        if self.words is None:
            return []
        with self.scope():
            return self.words.most_likely(sentence, num_words=num_words)


def load_sides(choice: EncoderChoice, cache_dir: Path, *, device: torch.device) -> list[Side]:
    """Returns the base model, and with an adapter the fine-tuned one behind it.

    An adapter is switched off for its base model, so one model serves for both. Weights that were
    trained as a whole have nothing to switch off, and their base model is loaded beside them.

    Args:
        choice: What to load.
        cache_dir: Where converted models lie.
        device: Where the weights go.

    Raises:
        EmbedllmError: As `EncoderChoice.load`.
    """
    encoder = choice.load(cache_dir, device=device)
    words = _load_words(encoder, choice, cache_dir)
    if choice.adapter is None:
        return [Side(BASE, encoder, words)]
    fine_tuned = Side(FINE_TUNED, encoder, words)
    if read_description(choice.adapter).method != "full":
        scope = partial(adapter_off, encoder.embedder.trunk)
        return [Side(BASE, encoder, words, scope), fine_tuned]
    base = load_encoder(choice.model, choice.prompt, cache_dir, device=device)
    return [Side(BASE, base, _load_words(base, choice, cache_dir)), fine_tuned]


def _load_words(
    encoder: SentenceEncoder, choice: EncoderChoice, cache_dir: Path
) -> NextWords | None:
    try:
        return NextWords.of(encoder, choice.model, cache_dir)
    except ModelError as error:
        _log.warning("the page shows no words: %s", error)
        return None
