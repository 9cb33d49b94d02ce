"""Tasks and an encoder to a result that says everything needed to repeat it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from embedllm.config import EvaluationConfig
from embedllm.evaluation.readers import Layout
from embedllm.evaluation.sts import ScoreProtocol, STSResult, evaluate_sts
from embedllm.evaluation.tasks import PairTask, Verify, fingerprint_task, load_tasks
from embedllm.versions import git_revision, hardware, library_versions


class ProgressEncoder(Protocol):
    """An encoder that can show its progress."""

    def encode(self, sentences: Sequence[str], *, progress: str | None) -> NDArray[np.float32]:
        """Returns one embedding per sentence, float32 [N, D]."""
        ...


class _Labelled:
    """An encoder with a fixed progress label."""

    def __init__(self, encoder: ProgressEncoder, label: str) -> None:
        self._encoder = encoder
        self._label = label

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        return self._encoder.encode(sentences, progress=self._label)


def load_configured_tasks(config: EvaluationConfig, names: Sequence[str]) -> list[PairTask]:
    """Returns tasks, read and verified, so that wrong data is refused before a model loads.

    Raises:
        DataError: Missing, truncated or other data.
        ConfigError: Unknown task.
    """
    data_dir = Path(config.data_dir) if config.data_dir else None
    return load_tasks(
        names,
        data_dir=data_dir,
        layout=cast(Layout, config.layout),
        verify=cast(Verify, config.verify),
    )


def score(
    encoder: ProgressEncoder, tasks: Sequence[PairTask], config: EvaluationConfig, *, label: str
) -> tuple[STSResult, float]:
    """Returns the scores and the seconds they took, with a progress bar under `label`."""
    start = time.perf_counter()
    result = evaluate_sts(
        _Labelled(encoder, label), tasks, protocol=cast(ScoreProtocol, config.protocol)
    )
    return result, time.perf_counter() - start


def build_record(
    result: STSResult,
    tasks: Sequence[PairTask],
    config: EvaluationConfig,
    *,
    seconds: float,
    seed: int,
    **facts: Any,
) -> dict[str, Any]:
    """Returns the JSON record of one evaluation.

    Args:
        result: The scores.
        tasks: The tasks scored; their checksums are recorded.
        config: How they were scored.
        seconds: Wall-clock time of encoding and scoring.
        seed: The run's seed.
        **facts: Model, adapter, prompt, dtype and whatever else identifies what was scored.
    """
    return {
        **result.to_dict(),
        "protocol": config.protocol,
        "verify": config.verify,
        "data": {task.name: fingerprint_task(task) for task in tasks},
        **facts,
        "seed": seed,
        "seconds": round(seconds, 2),
        "versions": library_versions(),
        "hardware": hardware(),
        "git_revision": git_revision(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
