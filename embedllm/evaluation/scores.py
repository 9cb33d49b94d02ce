"""What an evaluation gives: the score of every task, and the average of every kind of task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Metric = Literal["spearman", "accuracy"]
TaskKind = Literal["sts", "transfer"]

_KIND_OF_METRIC: Final[dict[str, TaskKind]] = {"spearman": "sts", "accuracy": "transfer"}


@dataclass(frozen=True)
class TaskScore:
    """The score of one task.

    Attributes:
        name: task name.
        score: 100 x Spearman (-100..100) or accuracy in percent, rounded to two decimals.
        metric: which of them; it also tells STS and transfer tasks apart.
        num_examples: pairs or labelled examples, over all subsets or splits.
        protocol: how an STS score was made from its subsets; None for transfer tasks.
        probe: the classifier of a transfer task; None for STS.
        details: JSON types; for STS `subsets`, 100 x Spearman of each alone, not rounded, and of
            STS-B `alignment` and `uniformity`.
    """

    name: str
    score: float
    metric: Metric
    num_examples: int
    protocol: str | None = None
    probe: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> TaskKind:
        """Kind of the task."""
        return _KIND_OF_METRIC[self.metric]

    @property
    def subsets(self) -> dict[str, float]:
        """100 x Spearman of every subset of an STS task, not rounded."""
        subsets: dict[str, float] = self.details["subsets"]
        return subsets


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one encoder on a list of tasks.

    Attributes:
        tasks: one score per task, in the order of evaluation.
        num_sentences: sentences of all tasks, two per pair.
        num_distinct: distinct sentences among them, which is what was encoded.
        timing: seconds of `encode`, and under `tasks` of each transfer task; JSON types.
    """

    tasks: tuple[TaskScore, ...]
    num_sentences: int
    num_distinct: int
    timing: dict[str, Any] = field(default_factory=dict)

    @property
    def averages(self) -> dict[TaskKind, float | None]:
        """Mean of the rounded scores of each kind, rounded to two decimals; None without any."""
        return {"sts": self._average("sts"), "transfer": self._average("transfer")}

    @property
    def average(self) -> float:
        """The average of a result with tasks of one kind.

        Raises:
            ValueError: there are tasks of both kinds; their scores have no common meaning.
        """
        values = [value for value in self.averages.values() if value is not None]
        if len(values) != 1:
            raise ValueError("Tasks of both kinds have no common average; use averages.")
        return values[0]

    def describe_averages(self) -> str:
        """Returns the averages for a log line."""
        names: dict[TaskKind, str] = {"sts": "STS", "transfer": "transfer"}
        found = [f"{names[k]} {v:.2f}" for k, v in self.averages.items() if v is not None]
        return ", ".join(found)

    def to_dict(self) -> dict[str, Any]:
        """Returns the part of a record that holds scores; tasks are keyed by name, in order."""
        tasks = {}
        for task in self.tasks:
            values = asdict(task)
            tasks[values.pop("name")] = values
        counts = {"num_sentences": self.num_sentences, "num_distinct": self.num_distinct}
        return {"tasks": tasks, "averages": self.averages, "timing": {**self.timing, **counts}}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> EvaluationResult:
        """Returns the result in a record made with `to_dict`; further keys are ignored."""
        tasks = tuple(TaskScore(name=name, **task) for name, task in record["tasks"].items())
        timing = dict(record["timing"])
        num_sentences, num_distinct = timing.pop("num_sentences"), timing.pop("num_distinct")
        return cls(tasks, num_sentences, num_distinct, timing)

    def _average(self, kind: TaskKind) -> float | None:
        scores = [task.score for task in self.tasks if task.kind == kind]
        return round(math.fsum(scores) / len(scores), 2) if scores else None
