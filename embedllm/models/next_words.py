"""The word that the model would say: the next-token distribution where the vector is read.

PromptEOL asks for the meaning of a sentence "in one word". The vector is the state from which the
model would say it, so the most likely words show what the vector stands for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from embedllm.config import ModelConfig
from embedllm.errors import ModelError
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.language_head import put_head_on
from embedllm.prompts.parts import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# More than a common word has behind its first token.
_MAX_MORE_TOKENS: Final = 4


@dataclass(frozen=True)
class NextWord:
    """A word that the model might say next.

    Attributes:
        token_id: Its first token.
        start: Text of the first token, with the space that may be in front of it.
        rest: How the model would go on to the end of the word; often empty.
        probability: That of the first token, 0 to 1.
    """

    token_id: int
    start: str
    rest: str
    probability: float

    @property
    def text(self) -> str:
        """The whole word, without white space."""
        return (self.start + self.rest).strip()


class NextWords:
    """What the language model of an encoder would say behind a finished prompt.

    Args:
        encoder: Its trunk and its tokens are used as they are, adapter included.
        language_model: The trunk with its head (`put_head_on`).
    """

    def __init__(self, encoder: SentenceEncoder, language_model: PreTrainedModel) -> None:
        self._encoder = encoder
        self._model = language_model

    @classmethod
    def of(cls, encoder: SentenceEncoder, model: ModelConfig, cache_dir: Path) -> NextWords:
        """Returns those of an encoder, its head loaded where it is not tied.

        Args:
            encoder: The encoder.
            model: The base model, which has the head.
            cache_dir: Where converted models lie.

        Raises:
            ModelError: The vectors are not read where the head reads.
        """
        settings = encoder.embedder.settings()
        if settings["layer"] != -1 or settings["token_prepending_layers"]:
            raise ModelError(
                "the model's words are those behind its last layer, and model.layer or "
                "model.token_prepending_layers reads the vectors elsewhere"
            )
        return cls(encoder, put_head_on(encoder.embedder.trunk, model, cache_dir))

    @torch.inference_mode()
    def most_likely(self, sentence: str, *, num_words: int) -> list[NextWord]:
        """Returns the most likely next tokens, the likeliest first, each with the end of its word.

        Args:
            sentence: A raw sentence; it is put into the encoder's prompt.
            num_words: How many.
        """
        ids = self._encoder.token_ids([sentence])[0]
        probabilities = self._logits([ids])[0].softmax(dim=-1)
        top = probabilities.topk(min(num_words, len(probabilities)))
        firsts: list[int] = top.indices.tolist()
        rests = self._ends_of_words(ids, firsts)
        return [
            NextWord(token_id, self._text(token_id), rest, probability)
            for token_id, rest, probability in zip(firsts, rests, top.values.tolist(), strict=True)
        ]

    def _ends_of_words(self, ids: Sequence[int], firsts: Sequence[int]) -> list[str]:
        """Returns how the model goes on behind each first token, as long as it is in a word."""
        rests = ["" for _ in firsts]
        texts = [self._text(token_id) for token_id in firsts]
        rows = {i: [*ids, t] for i, t in enumerate(firsts) if texts[i][-1:].isalpha()}
        # A prompt may fill all positions that the model has.
        room = (self._encoder.max_length or sys.maxsize) - len(ids)
        for _ in range(min(_MAX_MORE_TOKENS, room)):
            if not rows:
                break
            following = self._logits(list(rows.values())).argmax(dim=-1).tolist()
            for i, token_id in zip(list(rows), following, strict=True):
                text = self._text(token_id)
                if text.isalpha():
                    rests[i] += text
                    rows[i].append(token_id)
                else:
                    del rows[i]
        return rests

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Returns [B, V] float32 logits behind rows of one length."""
        model: Any = self._model
        device = next(model.parameters()).device
        ids = torch.tensor(rows, device=device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, -1].float()
        # Tables are often padded beyond the tokenizer's last token.
        return logits[:, : len(self._encoder.tokenizer)]

    def _text(self, token_id: int) -> str:
        return token_text(self._encoder.tokenizer, token_id)
