"""Small calls of `python -m embedllm encode`, in this process or another one, and their vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode_files import SPREAD
from tiny_runs import compose_typed

from embedllm.config import EncodeConfig
from embedllm.encoding import read_shards
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder

FLOAT32_TOLERANCE = 1e-6
# Other companions in a batch are other shapes of the same sums.
COMPANIONS_TOLERANCE = 1e-5
CPU = torch.device("cpu")
SHARD_ROWS = 50
NUM_SHARDS = 12
SIZE = f"shard_rows={SHARD_ROWS}"
TEXTS = [
    "A man is riding a horse.",
    "",
    'She said: "no", didn\'t she?',
    "na\u00efve caf\u00e9 \U0001f600",
    "two\u2028parts",
    "A man is riding a horse.",
    *(f"Sentence {i} about {'dogs ' * (i % 4)}and cats" for i in range(14)),
]


def compose_encode(*overrides: str) -> EncodeConfig:
    """Returns the config that the command would get."""
    config = compose_typed("encode", "input=x", "output=x", *overrides)
    assert isinstance(config, EncodeConfig)
    return config


def tiny_encoder(*overrides: str) -> SentenceEncoder:
    """Returns the encoder of the calls of `encode_files.arguments`."""
    config = compose_encode("model=tiny", SPREAD, *overrides)
    return load_encoder(config.model, config.prompt, Path("unused"), device=CPU)


def stack(folder: Path) -> tuple[list[Any], np.ndarray]:
    """Returns the ids and the vectors of all shards."""
    found = list(read_shards(folder))
    return [i for s in found for i in s.ids.tolist()], np.concatenate([s.vectors for s in found])
