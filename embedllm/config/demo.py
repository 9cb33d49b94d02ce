"""The configuration of `python -m embedllm demo`: what the page shows, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from embedllm.config.checks import at_least
from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import ModelConfig, PathsConfig, PromptConfig
from embedllm.errors import ConfigError

MAX_PORT = 65_535
MAX_CHARACTERS = 200_000
"""What a browser sends in one message of at most a million bytes, four to a character."""


@dataclass
class DemoConfig:
    """Everything `python -m embedllm demo` needs."""

    adapter_path: str | None = None
    """Adapter folder, shown beside its base model; it brings base model, prompt, clean-up, pooling
    and layer. `adapter=...` is short for it."""
    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 is for this machine alone, 0.0.0.0 for whoever reaches it."""
    port: int = 8080
    """Port to listen on; 0 for any that is free."""
    max_compared: int = 24
    """Sentences compared at once."""
    max_listed: int = 2_000
    """Sentences of a list that is searched."""
    max_sentence_characters: int = 2_000
    """Characters of a sentence."""
    max_characters: int = 100_000
    """Characters of a pasted list, at most 200,000."""
    max_upload_bytes: int = 1_000_000
    """Size of an uploaded file."""
    max_waiting: int = 8
    """Requests that wait for the model, which works on one at a time; more are sent away."""
    num_words: int = 8
    """Most likely words shown for a sentence."""
    num_results: int = 10
    """Sentences that a search shows."""
    model: ModelConfig = MISSING
    prompt: PromptConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        at_least("port", self.port, 0)
        if self.port > MAX_PORT:
            raise ConfigError(f"port={self.port} is out of range; it must be 0 to {MAX_PORT}")
        if not self.host:
            raise ConfigError("host is empty; use 127.0.0.1, or 0.0.0.0 for all addresses")
        at_least("max_compared", self.max_compared, 2)
        for key in (
            "max_listed",
            "max_sentence_characters",
            "max_characters",
            "max_upload_bytes",
            "max_waiting",
            "num_words",
            "num_results",
        ):
            at_least(key, getattr(self, key), 1)
        if self.max_characters > MAX_CHARACTERS:
            raise ConfigError(
                f"max_characters={self.max_characters} is out of range; it must be at most "
                f"{MAX_CHARACTERS}. Longer lists are uploaded (max_upload_bytes)"
            )
