"""The root configuration of `python -m embedllm demonstrations`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from omegaconf import MISSING

from embedllm.config.checks import at_least, one_of
from embedllm.config.commands import MAX_SEED
from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import EvaluationConfig, ModelConfig, PathsConfig, PromptConfig
from embedllm.errors import ConfigError

SOURCES = ("wordnet", "words", "paper")
PARTS_OF_SPEECH = ("noun", "verb", "adjective", "adverb")


@dataclass
class DefinitionsConfig:
    """Which of WordNet's definitions become demonstrations."""

    parts_of_speech: list[str] = field(default_factory=lambda: list(PARTS_OF_SPEECH))
    """What the defined word is: noun, verb, adjective, adverb."""
    min_words: int = 3
    """Fewest words of a definition."""
    max_words: int = 20
    """Most words of a definition; nine out of ten of the paper's dictionary entries are shorter."""
    single_words: bool = True
    """Leave out expressions of several words (`ice cream`)."""

    def __post_init__(self) -> None:
        if not self.parts_of_speech:
            raise ConfigError(
                f"definitions.parts_of_speech is empty; allowed: {', '.join(PARTS_OF_SPEECH)}"
            )
        for part in self.parts_of_speech:
            one_of("definitions.parts_of_speech", part, PARTS_OF_SPEECH)
        at_least("definitions.min_words", self.min_words, 1)
        at_least("definitions.max_words", self.max_words, self.min_words)


@dataclass
class EndpointConfig:
    """A server with an OpenAI-compatible interface that proposes words."""

    base_url: str | None = None
    """Address in front of `/chat/completions`, for example http://localhost:8000/v1; null asks
    the local model of the group `model` instead."""
    model: str | None = None
    """Name of the model at the server."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; unset or empty for a server that wants none. The key
    itself is never written anywhere."""
    timeout_seconds: float = 60.0
    """Longest wait for one answer."""
    max_retries: int = 5
    """New attempts after an answer with status 429 or 5xx, a timeout or a lost connection."""
    retry_seconds: float = 1.0
    """Wait before the first new attempt; doubles with each, unless the server names its own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request, under the interface's own names."""

    def __post_init__(self) -> None:
        at_least("endpoint.timeout_seconds", self.timeout_seconds, 0, strictly=True)
        at_least("endpoint.max_retries", self.max_retries, 0)
        at_least("endpoint.retry_seconds", self.retry_seconds, 0)
        if self.base_url is None:
            return
        if not self.model:
            raise ConfigError("endpoint.base_url is set, so endpoint.model must name a model there")
        try:
            address = urlsplit(self.base_url)
            is_valid = address.scheme in ("http", "https") and bool(address.hostname)
        except ValueError:
            is_valid = False
        if not is_valid:
            raise ConfigError(
                f"endpoint.base_url={self.base_url!r} is no address; allowed are http://... and "
                "https://..., for example http://localhost:8000/v1"
            )
        if "@" in address.netloc:
            # Configurations are written to run folders and logs.
            raise ConfigError(
                "endpoint.base_url must hold no user name or password; put the key into the "
                "environment variable that endpoint.api_key_variable names"
            )


@dataclass
class DemonstrationsConfig:
    """Everything `python -m embedllm demonstrations` needs."""

    run_name: str = MISSING
    """Name of the folder under paths.output_dir. The same command goes on where it was."""
    seed: int = 42
    """Seed of the order in which definitions or sentences are drawn."""
    source: str = "wordnet"
    """`wordnet` (words and definitions), `words` (sentences, with the word proposed by a language
    model), or `paper` (the 300 of the paper; only reports overlaps unless `output` is set)."""
    number: int | None = 200
    """How many demonstrations to make; null for as many as there are. Without effect on `paper`."""
    output: str | None = None
    """CSV file to write; default demonstrations.csv in the run folder."""
    keep_overlaps: bool = False
    """Keep demonstrations whose sentence occurs in an evaluation set. They are reported anyway."""
    wordnet_dir: str | None = None
    """Folder with WordNet's data.noun and so on; null looks at the usual places."""
    definitions: DefinitionsConfig = field(default_factory=DefinitionsConfig)
    """Which of WordNet's definitions are used."""
    sentences: str | None = None
    """For `words`: `stsb-train` (STS-B's training split, evaluation.data_dir), a text file with
    one sentence a line, or a CSV or JSONL file."""
    sentence_column: str = "sentence"
    """Column of the sentence in a CSV or JSONL file."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """Who is asked for words, instead of the local model."""
    batch_size: int = 16
    """Sentences that the local model is asked at once."""
    max_new_tokens: int = 12
    """Tokens after which the local model is cut off; a word is a few."""
    model: ModelConfig = MISSING
    prompt: PromptConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        one_of("source", self.source, SOURCES)
        at_least("number", self.number, 1)
        at_least("batch_size", self.batch_size, 1)
        at_least("max_new_tokens", self.max_new_tokens, 1)
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed={self.seed} is out of range; it must be 0 to {MAX_SEED}")
        if self.output is not None and not self.output.lower().endswith(".csv"):
            raise ConfigError(f"output={self.output} must end in .csv")
        if self.source == "words" and not self.sentences:
            raise ConfigError(
                "source=words needs sentences=...: stsb-train, a text file with one sentence a "
                "line, or a CSV or JSONL file"
            )
