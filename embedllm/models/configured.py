"""Which encoder a command asks for: a base model with a prompt, or an adapter folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from embedllm.config import ModelConfig, PromptConfig
from embedllm.errors import ConfigError
from embedllm.models.adapter_folder import read_description
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder, load_encoder
from embedllm.models.spreading import Spreading


@dataclass(frozen=True)
class EncoderChoice:
    """What a command encodes with; no weight is loaded yet.

    Attributes:
        model: The base model, of an adapter the saved one with what the command line changes.
        prompt: The prompt, of an adapter its own.
        adapter: The adapter folder, its checksums verified; None for the base model as it is.
        is_model_chosen: Whether `model` is a choice of this call and not what an adapter brings.
    """

    model: ModelConfig
    prompt: PromptConfig
    adapter: Path | None = None
    is_model_chosen: bool = True

    def load(
        self,
        cache_dir: Path,
        *,
        device: torch.device,
        tokens_per_batch: int | None = None,
        spreading: Spreading | None = None,
    ) -> SentenceEncoder:
        """Returns the encoder.

        Args:
            cache_dir: Where converted models lie.
            device: Where the weights go.
            tokens_per_batch: Padded tokens per forward pass; None for the device's default.
            spreading: How the weights are spread over ranks; None to keep them whole.

        Raises:
            EmbedllmError: As `load_encoder` and `load_adapted_encoder`.
        """
        if self.adapter is None:
            return load_encoder(
                self.model,
                self.prompt,
                cache_dir,
                device=device,
                tokens_per_batch=tokens_per_batch,
                spreading=spreading,
            )
        return load_adapted_encoder(
            self.adapter,
            cache_dir,
            device=device,
            model=self.model,
            tokens_per_batch=tokens_per_batch,
            spreading=spreading,
        )


def choose_encoder(
    model: ModelConfig,
    prompt: PromptConfig,
    *,
    adapter_path: str | None,
    overrides: Sequence[str],
) -> EncoderChoice:
    """Returns what the configuration asks for.

    Args:
        model: The composed base model.
        prompt: The composed prompt.
        adapter_path: Adapter folder, None for the base model as it is.
        overrides: The command line, which tells a chosen model or prompt from a default one.

    Raises:
        AdapterError: The adapter folder is missing or damaged.
        ConfigError: An adapter together with a prompt.
    """
    if adapter_path is None:
        return EncoderChoice(model, prompt)
    folder = Path(adapter_path)
    description = read_description(folder)
    _refuse_other_prompt(overrides)
    is_model_chosen = any(override.startswith("model=") for override in overrides)
    base = model if is_model_chosen else _changed(description.model, model, overrides)
    return EncoderChoice(base, description.prompt, folder, is_model_chosen)


def _changed(saved: ModelConfig, composed: ModelConfig, overrides: Sequence[str]) -> ModelConfig:
    """Returns the saved base model with what the command line says about `model` on top."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    names = {key.split(".")[1] for key in keys if key.startswith("model.")}
    # Code that comes with a model is run for who asks for it here, not for who made the adapter.
    saved = replace(saved, trust_remote_code=False)
    return replace(saved, **{name: getattr(composed, name) for name in names})


def _refuse_other_prompt(overrides: Sequence[str]) -> None:
    # A method is a prompt with the pooling that belongs to it.
    given = [o for o in overrides if o.lstrip("+~").startswith(("prompt=", "prompt.", "method="))]
    if given:
        raise ConfigError(
            f"adapter_path=... brings the prompt it was trained with, so {given[0]} has no place; "
            "leave it out, or leave out adapter_path=... to score the base model with that prompt"
        )
