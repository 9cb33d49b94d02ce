"""Words from a causal language model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from embedllm.config import ModelConfig
from embedllm.demonstrations.words import Answer
from embedllm.models.backbone import (
    load_language_model,
    load_model_config,
    load_tokenizer,
    max_positions,
)
from embedllm.prompts.template import Prompt
from embedllm.prompts.tokenize import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CLOSING_QUOTE = '"'


class LocalProposer:
    """Lets a language model go on from the finished prompt, greedily, up to the closing quote.

    The model is loaded when the first sentence is asked.

    Args:
        model: The model; pooling and layer have no effect.
        prompt: What the sentence is put into; it should end in an opening quote.
        cache_dir: Where converted models lie.
        device: Where the model runs.
        batch_size: Sentences asked at once.
        max_new_tokens: Tokens after which an answer is cut off.
    """

    def __init__(
        self,
        model: ModelConfig,
        prompt: Prompt,
        *,
        cache_dir: Path,
        device: torch.device,
        batch_size: int,
        max_new_tokens: int,
    ) -> None:
        self.name = model.name
        self.batch_size = batch_size
        self._config = model
        self._prompt = prompt
        self._cache_dir = cache_dir
        self._device = device
        self._max_new_tokens = max_new_tokens

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answers besides the sentence: saved ones of others are not used."""
        return {
            "model": asdict(self._config),
            "prompt": asdict(self._prompt),
            "max_new_tokens": self._max_new_tokens,
        }

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._config, self._cache_dir)

    @cached_property
    def _model(self) -> PreTrainedModel:
        num_tokens = len(self._tokenizer)
        return load_language_model(
            self._config, self._cache_dir, device=self._device, num_tokens=num_tokens
        )

    @cached_property
    def _max_prompt_tokens(self) -> int | None:
        positions = max_positions(load_model_config(self._config, self._cache_dir))
        return None if positions is None else positions - self._max_new_tokens

    def ask(self, sentences: Sequence[str]) -> list[Answer]:
        """Returns the answer to each sentence.

        Raises:
            ConfigError: The prompt does not fit the model.
            ModelError: The model or its tokenizer cannot be had.
        """
        token_ids = tokenize(
            sentences,
            tokenizer=self._tokenizer,
            prompt=self._prompt,
            max_length=self._max_prompt_tokens,
        )
        width = max(map(len, token_ids))
        # transformers.generate wants the padding on the left. The mask is made from lengths, so
        # that any id does for it.
        pad = self._tokenizer.pad_token_id or 0
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in token_ids])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in token_ids])
        new_ids = self._generate(input_ids.to(self._device), mask.to(self._device), pad)
        return [self._to_answer(row) for row in new_ids]

    @torch.inference_mode()
    def _generate(self, input_ids: torch.Tensor, mask: torch.Tensor, pad: int) -> list[list[int]]:
        """Returns the new tokens of each row."""
        # transformers' classes of models that can generate have no common type.
        output = cast(Any, self._model).generate(
            input_ids,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._max_new_tokens,
            pad_token_id=pad,
            stop_strings=[_CLOSING_QUOTE],
            tokenizer=self._tokenizer,
        )
        rows: list[list[int]] = output[:, input_ids.shape[1] :].tolist()
        return rows

    def _to_answer(self, new_ids: list[int]) -> Answer:
        """Returns the text in front of the closing quote or the end of the text."""
        end = self._end_of_text
        position = next((i for i, token in enumerate(new_ids) if token in end), len(new_ids))
        decoded = self._tokenizer.decode(new_ids[:position], skip_special_tokens=True)
        text, quote, _ = str(decoded).partition(_CLOSING_QUOTE)
        is_cut = not quote and position == self._max_new_tokens
        return Answer(text, is_cut)

    @cached_property
    def _end_of_text(self) -> frozenset[int]:
        """Tokens at which transformers stops: those of the generation config."""
        config = self._model.generation_config
        end = None if config is None else config.eos_token_id
        return frozenset([end] if isinstance(end, int) else end or ())
