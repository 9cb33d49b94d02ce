"""Results to rows: all results of one setting together, one row for each protocol and probe."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from embedllm.evaluation.geometry import Geometry
from embedllm.evaluation.scores import TaskKind
from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS
from embedllm.report.settings import RowName, Setting, distinguish, name_row, shorten_model
from embedllm.results import StoredResult

SEVEN: Final[dict[TaskKind, tuple[str, ...]]] = {"sts": PAPER_TASKS, "transfer": TRANSFER_TASKS}

_KIND_OF_METRIC: Final[dict[str, TaskKind]] = {"spearman": "sts", "accuracy": "transfer"}


@dataclass(frozen=True)
class Score:
    """The score of a row on a task, or its mean over tasks.

    Attributes:
        value: The score, for several seeds their mean, rounded to two decimals.
        by_seed: The score of each seed; for STS, where seeds decide nothing, that of one.
        deviation: Standard deviation over the seeds, None for one seed.
        is_verified: False when the texts may be others than the published ones
            (evaluation.verify=counts).
        seconds: What the classifier took, the mean over the seeds; None where nothing says it.
        geometry: Alignment and uniformity of the vectors of STS-B, None where they were not kept.
    """

    value: float
    by_seed: Mapping[int, float]
    deviation: float | None = None
    is_verified: bool = True
    seconds: float | None = None
    geometry: Geometry | None = None


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        base: Title of the model and the type of its weights; rows with one base are compared.
        name: The row's name and method.
        is_tuned: Whether the model has an adapter.
        kind: STS or transfer tasks.
        variant: The protocol of STS scores, the classifier of the others.
        scores: By task.
        runs: Numbers of the results that the scores are from, ascending.
    """

    base: str
    name: RowName
    is_tuned: bool
    kind: TaskKind
    variant: str
    scores: Mapping[str, Score]
    runs: tuple[int, ...]

    @property
    def mean(self) -> Score | None:
        """The mean of the seven rounded scores, rounded; None unless there are all seven."""
        scores = [self.scores[task] for task in SEVEN[self.kind] if task in self.scores]
        if len(scores) < len(SEVEN[self.kind]):
            return None
        seeds = [seed for seed in scores[0].by_seed if all(seed in s.by_seed for s in scores)]
        has_all = all(len(score.by_seed) == len(seeds) for score in scores)
        by_seed = {seed: _mean([s.by_seed[seed] for s in scores]) for seed in seeds}
        times = [score.seconds for score in scores if score.seconds is not None]
        return Score(
            _mean([score.value for score in scores]),
            by_seed,
            # Seeds that lack tasks would compare different things.
            statistics.stdev(by_seed.values()) if has_all and len(seeds) > 1 else None,
            all(score.is_verified for score in scores),
            math.fsum(times) if len(times) == len(scores) else None,
        )

    def value(self, task: str | None) -> float | None:
        """Returns what comparisons may use: a verified score, for no task the mean of the seven."""
        score = self.mean if task is None else self.scores.get(task)
        return score.value if score is not None and score.is_verified else None


@dataclass(frozen=True)
class Run:
    """A result that a row uses.

    Attributes:
        number: What rows call it by, from 1 in the order of finishing.
        base: Title of the model and the type of its weights.
        result: The result.
    """

    number: int
    base: str
    result: StoredResult


@dataclass(frozen=True)
class ReportRows:
    """What the store says.

    Attributes:
        rows: All rows: by model, those without training first, in the order of the methods.
        runs: The results that they use.
        unused: The results whose every score a newer one took the place of.
        models: The config `model` and the type of the weights of each base, by title.
    """

    rows: tuple[Row, ...]
    runs: tuple[Run, ...]
    unused: tuple[StoredResult, ...]
    models: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Entry:
    """One score of one result; `place` is that of the result in the store."""

    place: int
    result: StoredResult
    task: str

    @property
    def facts(self) -> dict[str, Any]:
        return self.result.tasks[self.task]

    @property
    def kind(self) -> TaskKind:
        return _KIND_OF_METRIC[self.facts["metric"]]

    @property
    def variant(self) -> str:
        if self.kind == "sts":
            return str(self.facts["protocol"])
        folds = self.facts["details"].get("num_folds")
        return f"{self.facts['probe']}" + ("" if folds is None else f", {folds} folds")

    @property
    def is_verified(self) -> bool:
        return bool(self.facts["details"].get("verify") != "counts")

    @property
    def geometry(self) -> Geometry | None:
        values = [self.facts["details"].get(key) for key in ("alignment", "uniformity")]
        return None if None in values else Geometry(*values)

    @property
    def seconds(self) -> float | None:
        tasks = self.result.record["timing"].get("tasks")
        found = tasks.get(self.task) if isinstance(tasks, dict) else None
        return float(found) if isinstance(found, int | float) else None


@dataclass(frozen=True)
class _Chosen:
    """A row whose runs have no numbers yet; `places` are those of its results in the store."""

    row: Row
    places: frozenset[int]


def build_rows(results: Sequence[StoredResult]) -> ReportRows:
    """Returns the rows of a store.

    Args:
        results: All results, in the order of finishing.
    """
    settings = [Setting.of(result) for result in results]
    places: dict[str, list[int]] = {}
    for place, setting in enumerate(settings):
        places.setdefault(setting.key, []).append(place)
    titles = _title_bases(settings, results)
    chosen = []
    for base_key, title in titles.items():
        groups = [group for group in places.values() if settings[group[0]].base_key == base_key]
        names = _name_groups(groups, settings, results)
        for group, name in zip(groups, names, strict=True):
            is_tuned = settings[group[0]].rest["adapter"] is not None
            entries = [_Entry(p, results[p], task) for p in group for task in results[p].tasks]
            chosen += _choose(entries, title, name, is_tuned=is_tuned)
    chosen.sort(key=lambda c: _order_of(c.row))
    used = sorted({place for each in chosen for place in each.places})
    number_of = {place: number for number, place in enumerate(used, start=1)}
    rows = [replace(c.row, runs=tuple(sorted(number_of[p] for p in c.places))) for c in chosen]
    return ReportRows(
        rows=tuple(rows),
        runs=tuple(
            Run(number, titles[settings[place].base_key], results[place])
            for place, number in number_of.items()
        ),
        unused=tuple(result for p, result in enumerate(results) if p not in number_of),
        models={titles[setting.base_key]: setting.base for setting in settings},
    )


def _title_bases(settings: Sequence[Setting], results: Sequence[StoredResult]) -> dict[str, str]:
    """Returns a title by base key, no two equal, in alphabetical order."""
    bases: dict[str, list[int]] = {}
    for place, setting in enumerate(settings):
        bases.setdefault(setting.base_key, []).append(place)
    names = []
    for group in bases.values():
        choices = sorted(c for p in group if (c := results[p].record["model_choice"]) is not None)
        first = settings[group[0]].base
        name = choices[0] if choices else shorten_model(first["model"]["name"])
        names.append(f"{name}, {first['dtype']}")
    facts = [settings[group[0]].base for group in bases.values()]
    titles = zip(bases, distinguish(names, facts), strict=True)
    return dict(sorted(titles, key=lambda item: (item[1], item[0])))


def _name_groups(
    groups: Sequence[Sequence[int]], settings: Sequence[Setting], results: Sequence[StoredResult]
) -> list[RowName]:
    """Returns a name for every setting of a base, no two equal."""
    names = [name_row(settings[group[0]], [results[p] for p in group]) for group in groups]
    facts = [settings[group[0]].rest for group in groups]
    texts = distinguish([name.text for name in names], facts)
    return [replace(name, text=text) for name, text in zip(names, texts, strict=True)]


def _choose(
    entries: Iterable[_Entry], base: str, name: RowName, *, is_tuned: bool
) -> list[_Chosen]:
    """Returns the rows of one setting, one for each kind and variant."""
    ordered = sorted(entries, key=lambda e: (e.kind, e.variant, e.task, e.place))
    rows = []
    for (kind, variant), group in groupby(ordered, key=lambda e: (e.kind, e.variant)):
        scores, places = {}, set()
        for task, same_task in groupby(group, key=lambda e: e.task):
            kept = _keep_newest(list(same_task), by_seed=kind == "transfer")
            scores[task] = _merge(kept)
            places |= {entry.place for entry in kept}
        rows.append(
            _Chosen(Row(base, name, is_tuned, kind, variant, scores, ()), frozenset(places))
        )
    return rows


def _keep_newest(entries: Sequence[_Entry], *, by_seed: bool) -> list[_Entry]:
    """Returns the newest entry, of each seed where seeds decide something, by seed.

    A score on texts that may be others never takes the place of one on the published texts.
    """
    verified = [entry for entry in entries if entry.is_verified] or entries
    newest = {entry.result.record["seed"] if by_seed else None: entry for entry in verified}
    return sorted(newest.values(), key=lambda entry: entry.result.record["seed"])


def _merge(entries: Sequence[_Entry]) -> Score:
    by_seed = {entry.result.record["seed"]: float(entry.facts["score"]) for entry in entries}
    times = [entry.seconds for entry in entries if entry.seconds is not None]
    return Score(
        _mean(list(by_seed.values())),
        by_seed,
        statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None,
        all(entry.is_verified for entry in entries),
        math.fsum(times) / len(times) if len(times) == len(entries) else None,
        entries[-1].geometry,
    )


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), 2)


def _order_of(row: Row) -> tuple[Any, ...]:
    return (row.base, row.is_tuned, *row.name.order, row.kind, row.variant)
