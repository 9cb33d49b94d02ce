"""Tasks and an encoder to a result that says everything needed to repeat it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from embedllm.config import EvaluationConfig, ModelConfig, ProbeConfig, PromptConfig
from embedllm.distributed import main_only, share_from_main
from embedllm.evaluation.readers import Layout
from embedllm.evaluation.scores import EvaluationResult
from embedllm.evaluation.shared import SharedEncoder
from embedllm.evaluation.suite import (
    Task,
    encode_suite,
    fingerprint_suite,
    load_suite,
    score_suite,
)
from embedllm.evaluation.tasks import PairTask, Verify, load_tasks
from embedllm.files import sha256_of
from embedllm.invocation import Invocation
from embedllm.models.encoder import SentenceEncoder
from embedllm.results import SCHEMA_VERSION
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
    """Returns STS tasks, read and verified, so that wrong data is refused before a model loads.

    Raises:
        DataError: Missing, truncated or other data.
        ConfigError: Unknown task, or a transfer task.
    """
    return load_tasks(
        names,
        data_dir=_data_dir(config),
        layout=cast(Layout, config.layout),
        verify=cast(Verify, config.verify),
    )


def load_configured_suite(config: EvaluationConfig) -> list[Task]:
    """Returns `evaluation.tasks`, STS and transfer tasks, read and verified likewise."""
    return load_suite(
        config.tasks,
        data_dir=_data_dir(config),
        layout=cast(Layout, config.layout),
        verify=cast(Verify, config.verify),
    )


def _data_dir(config: EvaluationConfig) -> Path | None:
    return Path(config.data_dir) if config.data_dir else None


def prepare_encoder(
    encoder: SentenceEncoder, config: EvaluationConfig, cache_dir: Path
) -> SentenceEncoder:
    """Returns the encoder with what the configuration says about its speed.

    Only for an encoder whose weights no longer change while its vectors are kept.

    Raises:
        CheckpointError: The vectors kept on disk are damaged.
    """
    encoder.share_prefix = config.share_prefix
    if config.cache_vectors:
        encoder.keep_vectors(cache_dir / "vectors")
    return encoder


@dataclass(frozen=True)
class Origin:
    """Where a result comes from, for its record.

    Attributes:
        run_name: Name of the run.
        command: The command line, one string for each argument; empty for a call from Python.
        model_choice: The chosen file of `conf/model`, None when the model is not from one.
        label: The chosen file of `conf/method`, the name of a row in tables.
    """

    run_name: str
    command: tuple[str, ...] = ()
    model_choice: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, invocation: Invocation, *, script: str, run_name: str) -> Origin:
        """Returns the origin of a result of `python SCRIPT ...`."""
        is_named = any(o.lstrip("+").startswith("model.name=") for o in invocation.overrides)
        choice = None if is_named else invocation.choices.get("model")
        label = invocation.choices.get("method")
        return cls(run_name, (script, *invocation.overrides), choice, label)


def score_and_record(
    encoder: ProgressEncoder,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    label: str,
    origin: Origin,
    probe: ProbeConfig,
    seed: int,
    model: ModelConfig,
    prompt: PromptConfig,
    adapter: Path | None,
) -> tuple[EvaluationResult, dict[str, Any]]:
    """Returns the scores, and the record of `result_schema.json` with all that repeats them.

    Of several ranks each encodes a part of the sentences, rank 0 scores, and all get the result.

    Args:
        encoder: What is scored.
        tasks: The tasks; their checksums are recorded.
        config: How they are scored.
        label: Label of the progress bar.
        origin: Run and command.
        probe: Classifier of the transfer tasks.
        seed: The run's seed, also that of the classifier.
        model: Config of the base model.
        prompt: Config of the prompt.
        adapter: Folder of the adapter, None for the base model as it is.
    """
    start = time.perf_counter()
    vectors = encode_suite(SharedEncoder(_Labelled(encoder, label)), tasks)

    def score() -> tuple[EvaluationResult, dict[str, Any]]:
        result = score_suite(vectors, tasks, config, probe=probe, seed=seed)
        scores = result.to_dict()
        for task in scores["tasks"].values():
            # With `counts` the texts may be others, so the score is marked.
            task["details"]["verify"] = config.verify
        record = {
            "schema": SCHEMA_VERSION,
            "kind": "evaluation",
            "run_name": origin.run_name,
            "label": origin.label,
            "model": asdict(model),
            "model_choice": origin.model_choice,
            "adapter": str(adapter) if adapter else None,
            # This file holds the checksums of all others, so its own identifies the adapter.
            "adapter_sha256": sha256_of(adapter / "embedllm.json") if adapter else None,
            "prompt": asdict(prompt),
            "dtype": encoder.dtype,
            "tasks": scores["tasks"],
            "averages": scores["averages"],
            "data": fingerprint_suite(tasks),
            "seed": seed,
            "seconds": round(time.perf_counter() - start, 2),
            "timing": scores["timing"],
            "versions": library_versions(),
            "hardware": hardware(),
            "git_revision": git_revision(),
            "command": list(origin.command),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return result, record

    return share_from_main(main_only(score))
