"""Tasks and an encoder to a result that says everything needed to repeat it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from embedllm.config import EvaluationConfig, ModelConfig, PromptConfig
from embedllm.evaluation.readers import Layout
from embedllm.evaluation.sts import ScoreProtocol, STSResult, evaluate_sts
from embedllm.evaluation.tasks import PairTask, Verify, fingerprint_task, load_tasks
from embedllm.versions import git_revision, hardware, library_versions


class ProgressEncoder(Protocol):
    """An encoder that can show its progress and knows the type of its weights."""

    @property
    def dtype(self) -> str:
        """Type of the base weights, for example `float32`."""
        ...

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


def score_and_record(
    encoder: ProgressEncoder,
    tasks: Sequence[PairTask],
    config: EvaluationConfig,
    *,
    label: str,
    seed: int,
    model: ModelConfig,
    prompt: PromptConfig,
    adapter: str | None,
) -> tuple[STSResult, dict[str, Any]]:
    """Returns the scores, and the JSON record with everything needed to repeat them.

    Args:
        encoder: What is scored.
        tasks: The tasks; their checksums are recorded.
        config: How they are scored.
        label: Label of the progress bar.
        seed: The run's seed.
        model: Config of the base model.
        prompt: Config of the prompt.
        adapter: Folder of the adapter, None for the base model as it is.
    """
    start = time.perf_counter()
    result = evaluate_sts(
        _Labelled(encoder, label), tasks, protocol=cast(ScoreProtocol, config.protocol)
    )
    record = {
        **result.to_dict(),
        "protocol": config.protocol,
        "verify": config.verify,
        "data": {task.name: fingerprint_task(task) for task in tasks},
        "model": asdict(model),
        "adapter": adapter,
        "prompt": asdict(prompt),
        "dtype": encoder.dtype,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 2),
        "versions": library_versions(),
        "hardware": hardware(),
        "git_revision": git_revision(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return result, record
