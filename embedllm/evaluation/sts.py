"""Scores an encoder on semantic textual similarity: cosine of embeddings against gold scores.

1. Every distinct sentence of all tasks is encoded once, in a single call of the encoder.
2. The similarity of a pair is the cosine of its two embeddings; nothing is trained.
3. A task's score is 100 x Spearman, by one of two protocols:
   `paper` takes one Spearman over the concatenation of all subsets (the "all" setting of SimCSE,
   Gao et al. 2021, appendix B, which PromptEOL, arXiv 2307.16645, follows); `mteb` takes the
   unweighted mean of the subsets' Spearmans. They are not comparable with one another.
4. Task scores are rounded to two decimals and the average is the mean of the rounded scores,
   rounded again, as the reference evaluation script prints it.
5. STS-B, whose scores have one scale and whose best ones mean "the same", also gets the alignment
   and the uniformity of its vectors (see `geometry`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedllm.errors import ConfigError
from embedllm.evaluation.geometry import measure_geometry
from embedllm.evaluation.metrics import cosine_similarity_pairs, spearman
from embedllm.evaluation.scores import EvaluationResult, TaskScore
from embedllm.evaluation.tasks import PairSubset, PairTask

ScoreProtocol = Literal["paper", "mteb"]

# The tasks with alignment and uniformity.
GEOMETRY_TASKS: Final = ("STSBenchmark", "STSBenchmark-dev")


class Encoder(Protocol):
    """What evaluation needs of a model."""

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Returns one embedding per sentence, in order, float32 [N, D]."""
        ...


def evaluate_sts(
    encoder: Encoder,
    tasks: Sequence[PairTask],
    *,
    protocol: ScoreProtocol = "paper",
) -> EvaluationResult:
    """Returns the scores of `encoder` on `tasks`.

    Calls the encoder once and communicates nothing itself. On many processes every rank calls it
    with the same tasks and an encoder that returns all embeddings on every rank.

    Args:
        encoder: turns sentences into embeddings.
        tasks: loaded tasks with different names.
        protocol: how a task with several subsets is scored, see the module docstring.

    Raises:
        ConfigError: there are no tasks, or two have one name.
        ValueError: the encoder does not return one row per sentence.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise ConfigError(
            f"evaluation.tasks is {names}, expected at least one task and none twice."
        )
    sentences = [
        sentence
        for task in tasks
        for subset in task.subsets.values()
        for column in (subset.sentence1, subset.sentence2)
        for sentence in column
    ]
    # A dict keeps first occurrence order, so the encoder sees the same list in every run and rank.
    row_of = {sentence: row for row, sentence in enumerate(dict.fromkeys(sentences))}
    embeddings = np.asarray(encoder.encode(list(row_of)))
    if embeddings.ndim != 2 or len(embeddings) != len(row_of):
        raise ValueError(
            f"The encoder returned shape {embeddings.shape} for {len(row_of)} sentences, "
            f"expected [{len(row_of)}, D]."
        )
    scores = tuple(_score_task(task, embeddings, row_of, protocol=protocol) for task in tasks)
    return EvaluationResult(scores, num_sentences=len(sentences), num_distinct=len(row_of))


def _score_task(
    task: PairTask,
    embeddings: NDArray[Any],
    row_of: dict[str, int],
    *,
    protocol: ScoreProtocol,
) -> TaskScore:
    similarities = {
        name: _compute_similarities(subset, embeddings, row_of)
        for name, subset in task.subsets.items()
    }
    subsets = {
        name: 100.0 * spearman(similarities[name], subset.scores)
        for name, subset in task.subsets.items()
    }
    if protocol == "paper":
        gold = [score for subset in task.subsets.values() for score in subset.scores]
        score = 100.0 * spearman(np.concatenate(list(similarities.values())), gold)
    else:
        score = math.fsum(subsets.values()) / len(subsets)
    return TaskScore(
        name=task.name,
        score=round(score, 2),
        metric="spearman",
        num_examples=task.num_pairs,
        protocol=protocol,
        details={"subsets": subsets, **_describe_geometry(task, embeddings, row_of)},
    )


def _describe_geometry(
    task: PairTask, embeddings: NDArray[Any], row_of: dict[str, int]
) -> dict[str, float]:
    if task.name not in GEOMETRY_TASKS:
        return {}
    subsets = task.subsets.values()
    pairs = [
        (row_of[first], row_of[second])
        for subset in subsets
        for first, second in zip(subset.sentence1, subset.sentence2, strict=True)
    ]
    # Sentences of other tasks have vectors too; only those of this one count.
    rows = sorted({row for pair in pairs for row in pair})
    place_of = {row: place for place, row in enumerate(rows)}
    found = measure_geometry(
        embeddings[rows],
        [(place_of[first], place_of[second]) for first, second in pairs],
        [score for subset in subsets for score in subset.scores],
    )
    return asdict(found) if found else {}


def _compute_similarities(
    subset: PairSubset, embeddings: NDArray[Any], row_of: dict[str, int]
) -> NDArray[np.float64]:
    left = [row_of[sentence] for sentence in subset.sentence1]
    right = [row_of[sentence] for sentence in subset.sentence2]
    return cosine_similarity_pairs(embeddings[left], embeddings[right])
