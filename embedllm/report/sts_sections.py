"""The parts of the page about STS: every model, the paper beside them, later methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.report.cells import (
    DEV_TASK,
    columns_of,
    format_number,
    plain_cells,
    published_cells,
    rows_table,
    runs_cell,
    source_cell,
    sources_sentence,
    title_of,
)
from embedllm.report.markdown import MISSING, escape, join_words, table
from embedllm.report.published import Published, PublishedRow
from embedllm.report.rows import ReportRows, Row
from embedllm.report.settings import shorten_model
from embedllm.report.statements import best_row, has_order, state_order, state_passed

_PROTOCOL: Final = "paper"
_REFERENCE: Final = "prompteol"


def model_blocks(report: ReportRows) -> Iterator[str]:
    """Yields, for every model, its table without training and what follows from it."""
    yield "## Without training"
    rows = [row for row in report.rows if row.kind == "sts"]
    if not any(not row.is_tuned or row.variant != _PROTOCOL for row in rows):
        yield "The store has no STS scores of a model without training."
    for base, group in groupby(rows, key=lambda row: row.base):
        yield from _blocks_of_model(base, list(group), report.models[base])


def comparison_blocks(report: ReportRows, published: Published) -> Iterator[str]:
    """Yields the means beside the paper's OPT rows, then the fine-tuned models beside its own."""
    without = published.tables["opt_without_demonstration"]
    with_demonstration = published.tables["opt_with_demonstration"]
    untrained = _untrained(report)
    complete = [row for row in untrained if row.mean is not None]
    yield "## Beside the paper, without training"
    columns: list[str | None] = [*PAPER_TASKS, None]
    lines = [
        [escape(row.base), escape(row.name.text), *plain_cells(row, columns), runs_cell([row])]
        for row in complete
    ]
    for first, second in zip(without.rows, with_demonstration.rows, strict=True):
        how = f'PromptEOL + demonstration "{second.word}"'
        lines.append(_published_line(first, "PromptEOL", columns))
        lines.append(_published_line(second, how, columns))
    yield table(["model", "method", *map(title_of, columns), "runs"], lines, num_texts=2)
    yield sources_sentence(published, (without, with_demonstration))
    for _, group in groupby(complete, key=lambda row: row.base):
        if (sentence := state_passed(list(group), without, with_demonstration)) is not None:
            yield sentence
    if not complete:
        yield "No row of the store has all seven tasks yet."
    yield from _tuned_blocks(report, published)


def later_blocks(report: ReportRows, published: Published) -> Iterator[str]:
    """Yields, for every model, the gains of later methods beside those on LLaMA-2 7B."""
    later, by_method = published.tables["later_methods"], _index_by_method(published)
    yield "## Later methods"
    yield (
        "What methods without training gain over PromptEOL, here and on LLaMA-2 7B. The sizes "
        "differ, and so do the tasks where ours is STS-B dev: LLaMA-2 7B has the mean of the seven "
        "tasks. What can be compared is the sign of a gain."
    )
    found = [
        block
        for base, gains in find_gains(report, published).items()
        for block in _gain_blocks(base, gains, by_method)
    ]
    yield from found or [
        "No model of the store has PromptEOL and one of these methods on one task."
    ]
    yield sources_sentence(published, [later])


def _blocks_of_model(base: str, rows: Sequence[Row], facts: Mapping[str, Any]) -> Iterator[str]:
    usual = [row for row in rows if row.variant == _PROTOCOL and not row.is_tuned]
    others = [row for row in rows if row.variant != _PROTOCOL]
    if not usual and not others:
        return
    yield f"### {escape(base)}"
    yield _describe_model(facts)
    if usual:
        yield rows_table(usual, first=[DEV_TASK])
        yield state_order(usual, DEV_TASK)
        if has_order(usual, None):
            yield state_order(usual, None)
    # Rows are in the order of methods; each protocol has its own table.
    by_protocol = sorted(others, key=lambda row: row.variant)
    for protocol, group in groupby(by_protocol, key=lambda row: row.variant):
        yield (
            f"Scored with protocol {escape(protocol)}, which cannot be compared with the other "
            "tables (mteb takes the mean over the subsets of a year):"
        )
        yield rows_table(list(group), first=[DEV_TASK])


def _describe_model(facts: Mapping[str, Any]) -> str:
    model = facts["model"]
    name = str(model["name"])
    # A hub name says who made it; a folder says only where it lies on one machine.
    is_hub_name = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    text = f"Weights: {escape(name if is_hub_name else shorten_model(name))}"
    if model["init"] == "random":
        text += ", random"
    if model["revision"]:
        text += f", revision {escape(str(model['revision']))}"
    if model["gguf_package"]:
        text += f", from the GGUF file of the package {escape(str(model['gguf_package']))}"
    return f"{text}, as {escape(str(facts['dtype']))}."


def _tuned_blocks(report: ReportRows, published: Published) -> Iterator[str]:
    tuned = published.tables["fine_tuned"]
    ours = [r for r in report.rows if r.kind == "sts" and r.is_tuned and r.variant == _PROTOCOL]
    columns = columns_of(ours, [DEV_TASK]) if ours else [DEV_TASK, *PAPER_TASKS, None]
    lines = [
        [escape(row.base), escape(row.name.text), *plain_cells(row, columns), runs_cell([row])]
        for row in ours
    ]
    lines += [_published_line(row, "PromptEOL, fine-tuned", columns) for row in tuned.rows]
    yield "## Beside the paper, fine-tuned"
    yield table(["model", "method", *map(title_of, columns), "runs"], lines, num_texts=2)
    yield sources_sentence(published, [tuned])
    if not ours:
        yield "The store has no fine-tuned model yet."


def _published_line(row: PublishedRow, method: str, columns: Sequence[str | None]) -> list[str]:
    return [escape(row.name), escape(method), *published_cells(row, columns), "paper"]


def find_gains(report: ReportRows, published: Published) -> dict[str, list[Gain]]:
    """Returns the gains of the later methods over PromptEOL by model, of those that have any."""
    by_method = _index_by_method(published)
    rows = [row for row in _untrained(report) if row.name.label in by_method]
    found = {}
    for base, group in groupby(rows, key=lambda row: row.base):
        same = list(group)
        found[base] = [g for row in same if (g := _compare(same, row, by_method)) is not None]
    return {base: gains for base, gains in found.items() if gains}


def _index_by_method(published: Published) -> dict[str, PublishedRow]:
    rows = published.tables["later_methods"].rows
    return {row.method: row for row in rows if row.method is not None}


def _gain_blocks(
    base: str, gains: Sequence[Gain], by_method: Mapping[str, PublishedRow]
) -> Iterator[str]:
    yield f"### {escape(base)}: gain over PromptEOL"
    references = {gain.task: gain.reference for gain in gains}
    ours = [f"{format_number(r.value(t))} ({_say_task(t)})" for t, r in references.items()]
    yield (
        f"PromptEOL has {join_words(ours)}; on LLaMA-2 7B it has "
        f"{format_number(by_method[_REFERENCE].mean)} (mean of seven)."
    )
    header = ["method", "source", "task", "ours", "gain", "LLaMA-2 7B", "gain", "same sign", "runs"]
    yield table(header, [gain.cells for gain in gains], num_texts=3)
    signs = [gain.is_same for gain in gains if gain.is_same is not None]
    if signs:
        yield f"{sum(signs)} of {len(signs)} gains have the sign that they have on LLaMA-2 7B."


@dataclass(frozen=True)
class Gain:
    """A row against PromptEOL of the same model, and the same on LLaMA-2 7B.

    Attributes:
        row: The row.
        reference: PromptEOL of the same model.
        task: The task of both, None for the mean of seven.
        published: The method on LLaMA-2 7B.
        ours: The gain here.
        theirs: The gain there, None for what was not published.
    """

    row: Row
    reference: Row
    task: str | None
    published: PublishedRow
    ours: float
    theirs: float | None

    @property
    def is_same(self) -> bool | None:
        """Whether both gains have one sign."""
        return None if self.theirs is None else self.ours * self.theirs > 0

    @property
    def cells(self) -> list[str]:
        """Its line of the table."""
        return [
            escape(self.row.name.text),
            source_cell(self.row.name.method),
            _say_task(self.task),
            format_number(self.row.value(self.task)),
            format_number(self.ours, is_signed=True),
            format_number(self.published.mean),
            format_number(self.theirs, is_signed=True),
            MISSING if self.is_same is None else "yes" if self.is_same else "no",
            runs_cell([self.row, self.reference]),
        ]


def _compare(rows: Sequence[Row], row: Row, by_method: Mapping[str, PublishedRow]) -> Gain | None:
    """Returns the gain in the mean of seven, else on STS-B dev, else None."""
    published = by_method[row.name.label or ""]
    # PromptEOL read in another way has no published counterpart.
    is_published = row.name.label != _REFERENCE
    theirs = published.mean - by_method[_REFERENCE].mean if is_published else None
    for task in (None, DEV_TASK):
        reference = best_row(rows, _REFERENCE, task)
        value, base = row.value(task), reference.value(task) if reference else None
        if reference is not None and value is not None and base is not None:
            if reference is row:
                return None
            return Gain(row, reference, task, published, round(value - base, 2), theirs)
    return None


def _say_task(task: str | None) -> str:
    return "mean of seven" if task is None else title_of(task)


def _untrained(report: ReportRows) -> list[Row]:
    return [
        row
        for row in report.rows
        if row.kind == "sts" and not row.is_tuned and row.variant == _PROTOCOL
    ]
