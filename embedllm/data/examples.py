"""The configured training data: read, checked, subsampled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

import numpy as np

from embedllm.config import DataConfig
from embedllm.data.sample import generate_triplets
from embedllm.data.schema import ColumnNames, Example
from embedllm.data.sources import read_examples
from embedllm.errors import ConfigError, DataError
from embedllm.log import get_logger

_log = get_logger(__name__)

SAMPLE_SIZE = 2000
"""Synthetic triplets of `data=sample`, before `data.max_examples`."""


@dataclass(frozen=True)
class TrainingData:
    """Examples and the checksum that identifies where they came from.

    Attributes:
        examples: What is trained on.
        sha256: Of the source file, or of the examples where there is no file.
    """

    examples: Sequence[Example]
    sha256: str


def load_training_data(config: DataConfig, *, seed: int) -> TrainingData:
    """Returns the examples that `conf/data` and the command line describe.

    Args:
        config: The data config.
        seed: Chooses the subset when `data.max_examples` is smaller than the data.

    Raises:
        DataError: The source is missing, malformed or too small.
        ConfigError: Only some of the column names are given.
    """
    if config.source == "sample":
        data = _sample()
    else:
        assert config.path is not None
        result = read_examples(
            config.path,
            split=config.split,
            subset=config.subset,
            revision=config.revision,
            columns=_column_names(config),
            on_bad_row=cast(Literal["fail", "skip"], config.on_bad_row),
        )
        data = TrainingData(result.examples, result.sha256)
    if len(data.examples) < 2:
        raise DataError(
            f"data.path={config.path} has {len(data.examples)} usable examples; contrastive "
            "training needs at least 2"
        )
    return _subset(data, config.max_examples, seed)


@cache
def _sample() -> TrainingData:
    triplets = generate_triplets(SAMPLE_SIZE, seed=0)
    examples = tuple(Example(t.anchor, t.positive, (t.negative,)) for t in triplets)
    text = "\n".join("\t".join(triplet) for triplet in triplets)
    return TrainingData(examples, hashlib.sha256(text.encode()).hexdigest())


def _subset(data: TrainingData, max_examples: int | None, seed: int) -> TrainingData:
    if max_examples is None or max_examples >= len(data.examples):
        return data
    # Files are often sorted by source, so the first rows would be a different kind of data.
    rows = np.random.default_rng(seed).permutation(len(data.examples))[:max_examples]
    return TrainingData([data.examples[row] for row in sorted(rows)], data.sha256)


def _column_names(config: DataConfig) -> ColumnNames | None:
    columns = config.columns
    if columns.anchor is None and columns.positive is None and columns.negatives is None:
        return None
    if columns.anchor is None or columns.positive is None:
        raise ConfigError(
            "data.columns needs both data.columns.anchor and data.columns.positive (and "
            "data.columns.negatives for hard negatives)"
        )
    return ColumnNames(columns.anchor, columns.positive, tuple(columns.negatives or ()))
