"""Scores an encoder on STS and transfer tasks together, with one call of the encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embedllm.config import EvaluationConfig, ProbeConfig
from embedllm.errors import ConfigError
from embedllm.evaluation.readers import Layout
from embedllm.evaluation.scores import EvaluationResult, TaskScore
from embedllm.evaluation.sts import Encoder, ScoreProtocol, evaluate_sts
from embedllm.evaluation.tasks import (
    PairTask,
    Verify,
    check_task_names,
    fingerprint_task,
    load_task,
)
from embedllm.evaluation.transfer import build_probe, score_transfer_task
from embedllm.evaluation.transfer_tasks import (
    TRANSFER_TASKS,
    TransferTask,
    fingerprint_transfer_task,
    load_transfer_task,
)
from embedllm.log import get_logger

Task = PairTask | TransferTask

_log = get_logger(__name__)


def load_suite(
    names: Sequence[str], *, data_dir: Path | None, layout: Layout, verify: Verify
) -> list[Task]:
    """Returns STS and transfer tasks, all verified, in the given order.

    Args:
        names: names of tasks of either kind.
        data_dir: folder with the data (`evaluation.data_dir`); None is fine for sample tasks.
        layout: file layout of the STS tasks, see `readers`.
        verify: see `load_task` and `load_transfer_task`.

    Raises:
        ConfigError: no name is given, one is unknown, or one occurs twice.
        DataError: files are missing or malformed, or not the published ones.
    """
    check_task_names(names, with_transfer=True)
    return [
        load_transfer_task(name, data_dir=data_dir, verify=verify)
        if name in TRANSFER_TASKS
        else load_task(name, data_dir=data_dir, layout=layout, verify=verify)
        for name in names
    ]


def fingerprint_suite(tasks: Sequence[Task]) -> dict[str, dict[str, object]]:
    """Returns the fingerprints of every task, by subset or split."""
    return {
        task.name: dict(
            fingerprint_task(task)
            if isinstance(task, PairTask)
            else fingerprint_transfer_task(task)
        )
        for task in tasks
    }


class KnownVectors:
    """An encoder that looks up vectors which another one has made.

    Args:
        encoder: called once.
        sentences: sentences to encode; equal ones are encoded once.

    Raises:
        ValueError: the encoder does not return one row per sentence.
    """

    def __init__(self, encoder: Encoder, sentences: Sequence[str]) -> None:
        # A dict keeps first occurrence order, so the encoder sees the same list in every run.
        self._row_of = {sentence: row for row, sentence in enumerate(dict.fromkeys(sentences))}
        self._vectors = np.asarray(encoder.encode(list(self._row_of)))
        if self._vectors.ndim != 2 or len(self._vectors) != len(self._row_of):
            raise ValueError(
                f"The encoder returned shape {self._vectors.shape} for {len(self._row_of)} "
                f"sentences, expected [{len(self._row_of)}, D]."
            )

    def __len__(self) -> int:
        return len(self._row_of)

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of known sentences, in order, [N, D]."""
        return self._vectors[[self._row_of[sentence] for sentence in sentences]]


def evaluate_suite(
    encoder: Encoder,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    probe: ProbeConfig,
    seed: int,
) -> EvaluationResult:
    """Returns the scores of `encoder` on tasks of both kinds.

    Args:
        encoder: turns sentences into embeddings; called once, with every distinct sentence.
        tasks: loaded tasks with different names.
        config: how STS tasks are scored.
        probe: classifier of the transfer tasks.
        seed: seed of its folds and weights.

    Raises:
        ConfigError: there are no tasks, or two have one name.
        DataError: a class has too few examples for the folds.
        ModelError: a vector of a transfer task has a NaN or an infinity.
    """
    return score_suite(encode_suite(encoder, tasks), tasks, config, probe=probe, seed=seed)


@dataclass(frozen=True)
class SuiteVectors:
    """The vectors of all sentences of some tasks.

    Attributes:
        vectors: Looks them up.
        num_sentences: Sentences, counted as often as they occur.
        seconds: How long encoding took.
    """

    vectors: KnownVectors
    num_sentences: int
    seconds: float


def encode_suite(encoder: Encoder, tasks: Sequence[Task]) -> SuiteVectors:
    """Returns the vectors of all sentences of the tasks, with one call of the encoder.

    Raises:
        ConfigError: there are no tasks, or two have one name.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise ConfigError(
            f"evaluation.tasks is {names}, expected at least one task and none twice."
        )
    sentences = [sentence for task in tasks for sentence in _sentences_of(task)]
    start = time.monotonic()
    vectors = KnownVectors(encoder, sentences)
    return SuiteVectors(vectors, len(sentences), time.monotonic() - start)


def score_suite(
    encoded: SuiteVectors,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    probe: ProbeConfig,
    seed: int,
) -> EvaluationResult:
    """Returns the scores of tasks whose sentences are encoded; otherwise as `evaluate_suite`."""
    vectors = encoded.vectors
    timing: dict[str, object] = {"encode": round(encoded.seconds, 2)}
    scores: dict[str, TaskScore] = {}
    pair_tasks = [task for task in tasks if isinstance(task, PairTask)]
    if pair_tasks:
        protocol = cast(ScoreProtocol, config.protocol)
        found = evaluate_sts(vectors, pair_tasks, protocol=protocol)
        scores |= {score.name: score for score in found.tasks}
    seconds: dict[str, float] = {}
    for task in tasks:
        if isinstance(task, TransferTask):
            start = time.monotonic()
            scores[task.name] = _score_transfer(task, vectors, probe, seed)
            seconds[task.name] = round(time.monotonic() - start, 2)
            _log.info(
                "%s: accuracy %.2f (probe %s) in %.1f s",
                task.name,
                scores[task.name].score,
                probe.name,
                seconds[task.name],
            )
    if seconds:
        timing["tasks"] = seconds
    ordered = tuple(scores[task.name] for task in tasks)
    return EvaluationResult(ordered, encoded.num_sentences, len(vectors), timing)


def _score_transfer(
    task: TransferTask, vectors: KnownVectors, config: ProbeConfig, seed: int
) -> TaskScore:
    return score_transfer_task(
        task, vectors, probe=build_probe(config), num_folds=config.num_folds, seed=seed
    )


def _sentences_of(task: Task) -> Iterator[str]:
    parts = task.subsets if isinstance(task, PairTask) else task.splits
    for part in parts.values():
        yield from part.sentence1
        yield from part.sentence2 or ()
