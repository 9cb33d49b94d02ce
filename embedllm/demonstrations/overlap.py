"""Which demonstrations occur in the evaluation sets.

A demonstration whose sentence is scored as well gives away an answer, so sets are compared with
every task before they are used. Texts are compared as their lower-case letters and digits alone:
evaluation sets differ in case, tokenization and final full stops, and so do their copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedllm.config import EvaluationConfig
from embedllm.console import result_table
from embedllm.errors import DataError
from embedllm.evaluation.tasks import load_task
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS, load_transfer_task
from embedllm.log import get_logger

if TYPE_CHECKING:
    from rich.table import Table

_log = get_logger(__name__)


def normalize(text: str) -> str:
    """Returns the letters and digits of a text in lower case."""
    return "".join(character for character in text.lower() if character.isalnum())


@dataclass(frozen=True)
class EvaluationTexts:
    """The sentences of the evaluation sets, normalised.

    Attributes:
        texts: Task to its sentences, in the order of the tasks. Of transfer tasks all splits
            count, since the classifier is trained on the others.
        not_compared: Tasks whose files could not be read, and why.
    """

    texts: Mapping[str, frozenset[str]]
    not_compared: Mapping[str, str] = field(default_factory=dict)

    def tasks_with(self, sentence: str) -> tuple[str, ...]:
        """Returns the tasks that have the sentence."""
        text = normalize(sentence)
        return tuple(task for task, texts in self.texts.items() if text and text in texts)


@dataclass(frozen=True)
class Overlap:
    """A sentence that also occurs in evaluation sets."""

    sentence: str
    tasks: tuple[str, ...]


@dataclass
class OverlapScreen:
    """Lets sentences pass that are new and in no evaluation set, and counts the others.

    Attributes:
        evaluation: What sentences are compared with.
        keep_overlaps: Let sentences of evaluation sets pass too; they are counted anyway.
        num_compared: Different sentences seen so far.
        num_repeated: Sentences seen that were equal, once normalised, to an earlier one.
        overlaps: Sentences seen that occur in evaluation sets, in order.
    """

    evaluation: EvaluationTexts
    keep_overlaps: bool = False
    num_compared: int = 0
    num_repeated: int = 0
    overlaps: list[Overlap] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set, repr=False)

    def admits(self, sentence: str) -> bool:
        """Takes note of a sentence and tells whether it may become a demonstration."""
        # What has neither letters nor digits is compared as it is.
        text = normalize(sentence) or sentence
        if text in self._seen:
            self.num_repeated += 1
            return False
        self._seen.add(text)
        self.num_compared += 1
        tasks = self.evaluation.tasks_with(sentence)
        if tasks:
            self.overlaps.append(Overlap(sentence, tasks))
        return self.keep_overlaps or not tasks

    def report(self) -> OverlapReport:
        """Returns what was found so far."""
        counts = Counter(task for overlap in self.overlaps for task in overlap.tasks)
        return OverlapReport(
            num_compared=self.num_compared,
            are_kept=self.keep_overlaps,
            per_task={task: counts[task] for task in self.evaluation.texts},
            not_compared=dict(self.evaluation.not_compared),
            overlaps=tuple(self.overlaps),
        )


@dataclass(frozen=True)
class OverlapReport:
    """How many of a number of sentences occur in each evaluation set.

    Attributes:
        num_compared: Sentences that were compared.
        are_kept: Whether those that occur were kept all the same.
        per_task: Task to the number of sentences that occur in it.
        not_compared: Tasks whose files could not be read, and why.
        overlaps: The sentences that occur, each once.
    """

    num_compared: int
    are_kept: bool
    per_task: Mapping[str, int]
    not_compared: Mapping[str, str]
    overlaps: Sequence[Overlap]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values: the content of `overlaps.json`."""
        return {
            "num_compared": self.num_compared,
            "num_overlaps": len(self.overlaps),
            "are_kept": self.are_kept,
            "per_task": dict(self.per_task),
            "not_compared": dict(self.not_compared),
            "overlaps": [
                {"sentence": overlap.sentence, "tasks": list(overlap.tasks)}
                for overlap in self.overlaps
            ],
        }

    def to_table(self) -> Table:
        """Returns a table for the terminal: one row per task, the total last."""
        table = result_table()
        table.add_column("evaluation set")
        table.add_column(f"of {self.num_compared} sentences", justify="right")
        for task, count in self.per_task.items():
            table.add_row(task, str(count))
        for task in self.not_compared:
            table.add_row(task, "not compared", style="yellow")
        table.add_section()
        table.add_row("in any of them", str(len(self.overlaps)), style="bold")
        return table


def load_evaluation_texts(config: EvaluationConfig) -> EvaluationTexts:
    """Returns the sentences of `config.tasks` and `config.dev_task`.

    Transfer tasks that cannot be read are left out with a warning: not everybody has their files.

    Raises:
        ConfigError: A task is unknown.
        DataError: An STS task cannot be read.
    """
    names = [*config.tasks, *([config.dev_task] if config.dev_task else [])]
    data_dir = Path(config.data_dir) if config.data_dir else None
    texts: dict[str, frozenset[str]] = {}
    not_compared: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            texts[name] = _normalize_all(_sentences_of(name, data_dir, config))
        except DataError as error:
            if name not in TRANSFER_TASKS:
                raise DataError(
                    f"{error}\nNew demonstrations are compared with the tasks of evaluation.tasks "
                    "and evaluation.dev_task; choose those that you have, for example "
                    "evaluation=sts-dev, or evaluation=none to compare with nothing."
                ) from error
            not_compared[name] = str(error)
    if not names:
        _log.warning("evaluation.tasks is empty: demonstrations are compared with nothing")
    if not_compared:
        _log.warning(
            "not compared with %s: %s", ", ".join(not_compared), next(iter(not_compared.values()))
        )
    return EvaluationTexts(texts, not_compared)


def _sentences_of(name: str, data_dir: Path | None, config: EvaluationConfig) -> Iterable[str]:
    if name in TRANSFER_TASKS:
        transfer_task = load_transfer_task(
            name,
            data_dir=data_dir,
            verify=config.verify,  # type: ignore[arg-type]  # checked by the config
        )
        for split in transfer_task.splits.values():
            yield from split.sentence1
            yield from split.sentence2 or ()
        return
    task = load_task(
        name,
        data_dir=data_dir,
        layout=config.layout,  # type: ignore[arg-type]
        verify=config.verify,  # type: ignore[arg-type]
    )
    for subset in task.subsets.values():
        yield from subset.sentence1
        yield from subset.sentence2


def _normalize_all(sentences: Iterable[str]) -> frozenset[str]:
    return frozenset(map(normalize, sentences)) - {""}
