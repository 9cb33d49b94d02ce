"""The root configuration of `python -m embedllm export`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from omegaconf import MISSING

from embedllm.config.checks import one_of
from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import DTYPES, PathsConfig
from embedllm.errors import ConfigError

EXPORT_FORMATS: Final = ("merged", "sentence-transformers")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass
class ExportConfig:
    """Everything `python -m embedllm export` needs."""

    adapter_path: str = MISSING
    """Adapter folder, or the run folder that it is in; `adapter=` on the command line."""
    output: str = MISSING
    """Folder to make."""
    format: str = "sentence-transformers"
    """`sentence-transformers`: a folder for `SentenceTransformer(folder)`; `merged`: a plain
    Hugging Face checkpoint with the adapter merged. embedllm loads both."""
    dtype: str = "auto"
    """Type of the written weights: `float32`, `bfloat16`, `float16`, or `auto` for that of the base
    weights in training."""
    overwrite: bool = False
    """Replace an older export in `output`; a folder with anything else is never touched."""
    license: str | None = None
    """Licence for the model card, as the hub writes it (apache-2.0); it has to suit the base model
    and the data."""
    language: str = "en"
    """Language for the model card, as the hub writes it."""
    push: str | None = None
    """Repository on the hub, organisation/name, made when it is not there. The token comes from the
    environment (HF_TOKEN) or from `hf auth login`, never from here."""
    push_private: bool = True
    """Make a new repository private; one that is there stays what it is."""
    push_dry_run: bool = False
    """Print what `push` would send, and send nothing."""
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        one_of("format", self.format, EXPORT_FORMATS)
        one_of("dtype", self.dtype, DTYPES)
        for key, value in (("adapter", self.adapter_path), ("output", self.output)):
            if not value:
                raise ConfigError(f"{key} is empty; it must be a folder")
        if self.push is not None and not _REPOSITORY.fullmatch(self.push):
            raise ConfigError(f"push={self.push!r} must be organisation/name, as the hub names it")
        if self.push_dry_run and self.push is None:
            raise ConfigError("push_dry_run=true needs push=organisation/name to say where to")
