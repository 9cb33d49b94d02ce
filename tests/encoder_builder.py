"""What the fixture `build_encoder` gives."""

from __future__ import annotations

from typing import Any, Protocol

from embedllm.config import ModelConfig
from embedllm.models.encoder import SentenceEncoder

PROMPT_TEMPLATE = 'This sentence : "{sentence}" means in one word:"'


class EncoderBuilder(Protocol):
    """Builds encoders of tiny models."""

    def __call__(
        self,
        model: ModelConfig,
        prompt_template: str = PROMPT_TEMPLATE,
        *,
        tokens_per_batch: int = 4096,
        **prompt_options: Any,
    ) -> SentenceEncoder:
        """Returns the encoder of a config on CPU; keywords are keys of `PromptConfig`."""
        ...
