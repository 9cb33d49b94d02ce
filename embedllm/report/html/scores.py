"""The sections of scores: STS beside the paper, later methods, transfer tasks, every run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import groupby

from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS
from embedllm.program import on_page
from embedllm.report.cells import DEV_TASK, MARK, name_of, runs_cell, sources_sentence
from embedllm.report.content import PageContent
from embedllm.report.html.parts import Cell, Column, Section, Table, number, numbers, prose, texts
from embedllm.report.markdown import escape
from embedllm.report.published import PublishedRow
from embedllm.report.rows import ReportRows, Row, Run, Score
from embedllm.report.settings import shorten_adapter
from embedllm.report.statements import has_order, state_order
from embedllm.results import StoredResult


def sts_section(content: PageContent) -> Section:
    """Returns the scores of all runs on STS, with the published ones."""
    report, published = content.tables.report, content.tables.published
    rows = [row for row in report.rows if row.kind == "sts"]
    usual = [row for row in rows if row.variant == "paper"]
    others = [row for row in rows if row.variant != "paper"]
    names = ("opt_without_demonstration", "opt_with_demonstration", "fine_tuned")
    tables = [published.tables[name] for name in names]
    columns: list[str | None] = [DEV_TASK, *PAPER_TASKS, None]
    lines = _row_lines(usual, columns)
    for table, method in zip(tables, ("PromptEOL", "", "PromptEOL, fine-tuned"), strict=True):
        lines += [_published_line(row, method, columns) for row in table.rows]
    sentences = [
        "100 x Spearman between cosines and human judgements. For STS12 to STS16 one correlation "
        "over the pairs of all subsets of the year together; the mean is over seven tasks, STS-B "
        "dev left out. The best of the rows from here is bold.",
    ]
    notes = [*_statements(report), sources_sentence(published, tables)]
    found = [Table("STS scores, from here and published", _columns(PAPER_TASKS), tuple(lines))]
    if others:
        caption = "Other protocols; mteb takes the mean over the subsets of a year"
        lines = _row_lines(others, columns, has_variant=True)
        found.append(Table(caption, _columns(PAPER_TASKS), tuple(lines)))
    missing = [] if rows else [("STS scores", "python evaluate.py evaluation=sts")]
    return Section(
        key="sts",
        title="STS scores",
        prose=prose(*sentences),
        tables=tuple(found),
        notes=prose(*notes),
        missing=tuple(missing),
    )


def transfer_section(content: PageContent) -> Section:
    """Returns the scores on the transfer tasks, with the published ones."""
    published = content.tables.published
    rows = [row for row in content.tables.report.rows if row.kind == "transfer"]
    columns: list[str | None] = [*TRANSFER_TASKS, None]
    lines = _row_lines(rows, columns, has_variant=True)
    tables = [published.tables[name] for name in ("transfer_baselines", "transfer_prompteol")]
    lines += [_published_line(row, "", columns) for table in tables for row in table.rows]
    table = Table("Accuracy in percent", _columns(TRANSFER_TASKS, first=()), tuple(lines))
    sentences = (
        "Accuracy of a classifier on frozen vectors, in percent; the classifier is named with the "
        "method. Several seeds: mean \u00b1 standard deviation (n - 1).",
    )
    command = "python evaluate.py method=prompteol evaluation=transfer"
    missing = () if rows else (("transfer scores from here", command),)
    return Section(
        key="transfer",
        title="Transfer tasks",
        prose=prose(*sentences),
        tables=(table,),
        notes=prose(sources_sentence(published, tables)),
        missing=missing,
    )


def runs_section(report: ReportRows) -> Section:
    """Returns every result that a number is from, with its command."""
    columns = (
        Column("run", is_number=True),
        *texts("model", "command"),
        *numbers("seconds", "seed"),
        *texts("machine", "git", "torch", "finished (UTC)", "file"),
    )
    table = Table("Results in the order of finishing", columns, tuple(map(_run_line, report.runs)))
    sentences = ["Every result that a number on this page is from, with its command."]
    if report.unused:
        sentences[0] += f" {len(report.unused)} more are not used, because newer ones replace them."
    return Section("runs", "Runs", prose(*sentences), tables=(table,))


def _statements(report: ReportRows) -> Iterator[str]:
    """Yields, for every model with all four methods, whether the paper's order holds."""
    rows = [r for r in report.rows if r.kind == "sts" and not r.is_tuned and r.variant == "paper"]
    for base, group in groupby(rows, key=lambda row: row.base):
        found = list(group)
        if has_order(found, None):
            yield f"**{escape(base)}.** {state_order(found, None)}"


def _columns(tasks: Sequence[str], first: Sequence[str] = (DEV_TASK,)) -> tuple[Column, ...]:
    titles = [name_of(task) for task in (*first, *tasks, None)]
    return (*texts("model", "method"), *numbers(*titles), Column("runs"))


def _row_lines(
    rows: Sequence[Row], columns: Sequence[str | None], *, has_variant: bool = False
) -> list[tuple[Cell, ...]]:
    best = {
        column: max((v for row in rows if (v := row.value(column)) is not None), default=None)
        for column in columns
    }
    lines = []
    for row in rows:
        name = f"{row.name.text} ({row.variant})" if has_variant else row.name.text
        scores = [row.mean if column is None else row.scores.get(column) for column in columns]
        cells = [
            _score(score, is_best=len(rows) > 1 and row.value(column) == best[column])
            for score, column in zip(scores, columns, strict=True)
        ]
        lines.append((Cell(row.base), Cell(name), *cells, Cell(runs_cell([row]))))
    return lines


def _score(score: Score | None, *, is_best: bool) -> Cell:
    if score is None:
        return number(None)
    text = f"{score.value:.2f}"
    if score.deviation is not None:
        text += f" \u00b1 {score.deviation:.2f}"
    return Cell(text if score.is_verified else f"{text} {MARK}", score.value, is_best=is_best)


def _published_line(
    row: PublishedRow, method: str, columns: Sequence[str | None]
) -> tuple[Cell, ...]:
    how = f'PromptEOL + demonstration "{row.word}"' if row.word else method
    values = [row.mean if column is None else row.scores.get(column) for column in columns]
    return (Cell(row.name), Cell(how), *map(number, values), Cell("paper"))


def _run_line(run: Run) -> tuple[Cell, ...]:
    record, adapter = run.result.record, run.result.adapter
    hardware = record["hardware"]
    machine = [str(hardware[key]) for key in ("gpu", "machine") if hardware.get(key)]
    threads = hardware.get("threads")
    base = f"{run.base}, adapter {shorten_adapter(adapter)}" if adapter else run.base
    return (
        number(run.number, 0),
        Cell(base),
        Cell(command_of(run.result), is_code=True),
        number(record["seconds"], 1),
        number(record["seed"], 0),
        Cell(", ".join([*machine, *([f"{threads} threads"] if threads else [])])),
        Cell((record["git_revision"] or "unknown")[:12]),
        Cell(str(record["versions"].get("torch", "?"))),
        Cell(f"{run.result.finished.astimezone(UTC):%Y-%m-%d %H:%M}"),
        Cell(run.result.path.name),
    )


def command_of(result: StoredResult) -> str:
    """Returns the command that made a result."""
    command = list(map(str, result.record["command"]))
    if not command:
        return "called from Python"
    words = [*(["python"] if command[0].endswith(".py") else []), *command]
    return on_page(shlex.join(words))


def commands_of(report: ReportRows, rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns the commands behind some rows, in the order of the runs."""
    used = {place for row in rows for place in row.runs}
    commands = (command_of(run.result) for run in report.runs if run.number in used)
    return tuple(dict.fromkeys(commands))
