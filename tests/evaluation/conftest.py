"""Shared pieces of the STS tests: the data folder, a small layout writer, a scripted encoder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedllm.evaluation.tasks import PairSubset, PairTask


@pytest.fixture
def sts_data_dir() -> Path:
    """The folder with the real data."""
    value = os.environ.get("EMBEDLLM_DATA_DIR")
    if not value:
        pytest.skip("EMBEDLLM_DATA_DIR is not set: the real STS files are not part of the project")
    return Path(value)


class ScriptedEncoder:
    """Places the two sentences of a pair so that their cosine is the requested similarity.

    Sentences are named `<anything>|a` and `<anything>|<cosine>`; the first kind lies at angle 0.
    """

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(sentences))
        rows = []
        for sentence in sentences:
            label = sentence.rsplit("|", 1)[1]
            cosine = 1.0 if label == "a" else float(label)
            rows.append([cosine, math.sqrt(1.0 - cosine * cosine)])
        return np.asarray(rows, dtype=np.float32)


@pytest.fixture
def scripted_encoder() -> ScriptedEncoder:
    return ScriptedEncoder()


MakeTask = Callable[[str, dict[str, tuple[Sequence[float], Sequence[float]]]], PairTask]


@pytest.fixture
def make_task() -> MakeTask:
    """Builds a task from similarities (as `ScriptedEncoder` will give them) and gold scores."""

    def build(name: str, subsets: dict[str, tuple[Sequence[float], Sequence[float]]]) -> PairTask:
        return PairTask(
            name=name,
            subsets={
                subset: PairSubset(
                    sentence1=[f"{name} {subset} {i}|a" for i in range(len(gold))],
                    sentence2=[f"{name} {subset} {i}|{value}" for i, value in enumerate(values)],
                    scores=list(gold),
                )
                for subset, (values, gold) in subsets.items()
            },
        )

    return build
