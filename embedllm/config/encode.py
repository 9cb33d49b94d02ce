"""The root configuration of `python -m embedllm encode`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from embedllm.config.checks import at_least, one_of
from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import ModelConfig, PathsConfig, PromptConfig
from embedllm.errors import ConfigError

INPUT_FORMATS = ("text", "csv", "tsv", "jsonl", "parquet")
SHARD_FORMATS = ("npy", "parquet")
VECTOR_DTYPES = ("float32", "float16")


@dataclass
class EncodeConfig:
    """Everything `python -m embedllm encode` needs."""

    input: Any = MISSING
    """File, pattern (data/*.jsonl) or list of these; a pattern's files come in order of name."""
    output: str = MISSING
    """Folder of the shards. The same command goes on where it was."""
    input_format: str = "auto"
    """`text` (one sentence a line), csv, tsv, jsonl, parquet, or `auto` by the file's name."""
    text_column: str = "text"
    """Column of the sentence; text files have none."""
    id_column: str | None = None
    """Column of the row's id, texts or whole numbers; null numbers the rows of all files from 0."""
    on_bad_row: str = "error"
    """Rows without a readable sentence: `error`, or `empty` to encode them as empty sentences."""
    format: str = "npy"
    """`npy`: two arrays a shard, ids and vectors; `parquet`: one table with both."""
    dtype: str = "float32"
    """Type of the written numbers, float32 or float16; the model computes in model.dtype."""
    shard_rows: int = 50_000
    """Rows of a shard. A killed process loses at most one, and holds one in memory."""
    tokens_per_batch: int | None = None
    """Padded tokens per forward pass; default by device (512 on a CPU, 32,768 on a GPU)."""
    adapter_path: str | None = None
    """Adapter folder. It brings its own base model, prompt, clean-up, pooling and layer."""
    model: ModelConfig = MISSING
    prompt: PromptConfig = MISSING
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        one_of("input_format", self.input_format, ("auto", *INPUT_FORMATS))
        one_of("on_bad_row", self.on_bad_row, ("error", "empty"))
        one_of("format", self.format, SHARD_FORMATS)
        one_of("dtype", self.dtype, VECTOR_DTYPES)
        at_least("shard_rows", self.shard_rows, 1)
        at_least("tokens_per_batch", self.tokens_per_batch, 1)
        if not self.output:
            raise ConfigError("output is empty; it must be a folder for the shards")
        if not self.inputs or not all(name and isinstance(name, str) for name in self.inputs):
            raise ConfigError(
                f"input={self.input!r} must be a file, a pattern or a list of these, for example "
                "input=data/*.jsonl or input=[a.txt,b.txt]"
            )
        if self.input_format == "text" and self.id_column is not None:
            raise ConfigError(
                f"id_column={self.id_column} has no place with input_format=text, which has no "
                "columns; the rows are numbered"
            )

    @property
    def inputs(self) -> list[str]:
        """The files and patterns as a list, however they were given."""
        return self.input if isinstance(self.input, list) else [self.input]
