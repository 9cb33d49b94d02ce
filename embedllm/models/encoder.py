"""Sentences to vectors: the encoder that evaluation, export and users call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from embedllm.log import get_logger
from embedllm.models.embedder import Embedder
from embedllm.models.packing import Pack, default_pack_tokens, pack
from embedllm.prompts.template import Prompt
from embedllm.prompts.tokenize import tokenize, trailing_special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = get_logger(__name__)


class SentenceEncoder:
    """Prompt, tokenizer and embedder in one object with one method.

    Args:
        embedder: Trunk and pooling.
        tokenizer: The backbone's tokenizer.
        prompt: Template, clean-up and token budget of evaluation and use.
        max_length: Positions of the backbone, None for no limit.
        tokens_per_batch: Padded tokens per forward pass; None for the device's default.
    """

    def __init__(
        self,
        embedder: Embedder,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        max_length: int | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        self.embedder = embedder
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_length = max_length
        self.tokens_per_batch = tokens_per_batch

    @property
    def dtype(self) -> str:
        """Type of the base weights; adapter weights can be kept in float32 above them."""
        trunk = cast(Any, self.embedder.trunk)
        if hasattr(trunk, "get_base_model"):
            trunk = trunk.get_base_model()
        return str(trunk.get_input_embeddings().weight.dtype).removeprefix("torch.")

    def encode(self, sentences: Sequence[str], *, progress: str | None = None) -> np.ndarray:
        """Returns one vector per sentence, [N, D] float32, in the order given.

        Each distinct sentence is computed once. A vector does not depend on the other
        sentences (to float rounding). Runs without gradients in evaluation mode and leaves the
        model in the mode it was in.

        Args:
            sentences: Raw sentences; any may be empty.
            progress: Label of a progress bar with rate and time left; None for no bar.
        """
        index = {text: i for i, text in enumerate(dict.fromkeys(sentences))}
        device = next(self.embedder.parameters()).device
        budget = self.tokens_per_batch or default_pack_tokens(device, training=False)
        packs = pack(self.token_ids(list(index)), max_tokens=budget)
        distinct: np.ndarray | None = None
        with _evaluation_mode(self.embedder), torch.inference_mode():
            for batch in _with_progress(packs, progress):
                vectors = self.embedder(batch.input_ids.to(device), batch.attention_mask.to(device))
                values = vectors.cpu().numpy()
                if distinct is None:
                    distinct = np.empty((len(index), values.shape[1]), dtype=np.float32)
                distinct[batch.rows.numpy()] = values
        if distinct is None:
            # No sentence, no vector; the width is learnt from any sentence.
            return self.encode([""])[:0]
        return distinct[[index[text] for text in sentences]]

    def token_ids(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns the ids that `encode` feeds to the model, unpadded."""
        return tokenize(
            sentences, tokenizer=self.tokenizer, prompt=self.prompt, max_length=self.max_length
        )

    def describe(self, sentence: str = "A man is riding a horse") -> str:
        """Returns one finished prompt with its last three tokens, for the start-up log."""
        ids = self.token_ids([sentence])[0]
        last = [self.tokenizer.convert_ids_to_tokens(i) for i in ids[-3:]]
        dropped = trailing_special_tokens(self.tokenizer)
        note = ""
        if dropped:
            names = self.tokenizer.convert_ids_to_tokens(list(dropped))
            note = f"; the tokenizer's own trailing {names} is left out"
        return f"{self.tokenizer.decode(ids)!r}, {len(ids)} tokens, the last three {last}{note}"


@contextmanager
def _evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _with_progress(packs: list[Pack], label: str | None) -> Iterable[Pack]:
    if label is None:
        yield from packs
        return
    from embedllm.progress import progress_bar

    with progress_bar(label, total=sum(len(p.rows) for p in packs), unit="sentences") as advance:
        for batch in packs:
            yield batch
            advance(len(batch.rows))
