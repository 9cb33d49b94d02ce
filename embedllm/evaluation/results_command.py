"""What `python -m embedllm results` does: read the store, choose, sort, print."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Final

from rich.console import JustifyMethod
from rich.markup import escape

from embedllm.config import ResultFilterConfig, ResultsConfig
from embedllm.config.checks import one_of
from embedllm.console import result_console, result_table
from embedllm.errors import ResultError
from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.invocation import Invocation
from embedllm.log import get_logger
from embedllm.results import StoredResult, read_results

_log = get_logger(__name__)

_MAX_PROMPT_CHARACTERS: Final = 24
_MAX_NAMED_TASKS: Final = 2
_NUM_TEXT_COLUMNS: Final = 6
_MISSING: Final = "-"

_Rows = list[list[str]]


def run_results(config: ResultsConfig, invocation: Invocation) -> None:
    """Prints the chosen results to stdout, and nothing else there.

    Args:
        config: The checked configuration.
        invocation: Not used: this command has no folder.

    Raises:
        ResultError: There is no store, `strict` and one of its files is damaged, or stdout is a
            file on a full disk.
        ConfigError: `sort_by` is no task of the store.
    """
    folder = Path(config.paths.results_dir)
    results = read_results(folder, strict=config.strict)
    if results:
        one_of("sort_by", config.sort_by, ("finished", "sts", "transfer", *_tasks_of(results)))
    chosen = [result for result in results if _fits(result, config.filter)]
    chosen = sort_results(chosen, config.sort_by)[: config.limit]
    if not results:
        _log.info("the results store %s is empty", folder)
    elif not chosen:
        tasks = ", ".join(_tasks_of(results))
        _log.info("none of the %d results fits the filter; tasks: %s", len(results), tasks)
    if invocation.console.format == "json":
        invocation.show(_to_plain(chosen), lambda console: None)
    else:
        _print(chosen, config)


def sort_results(results: Sequence[StoredResult], sort_by: str) -> list[StoredResult]:
    """Returns the newest or best first; results without the score come last.

    Args:
        results: Results, in the order of finishing.
        sort_by: `finished`, `sts`, `transfer` or a task.
    """
    newest_first = list(reversed(results))
    if sort_by == "finished":
        return newest_first

    def to_key(result: StoredResult) -> tuple[bool, float]:
        averages = {"sts": result.average("sts"), "transfer": result.average("transfer")}
        score = averages[sort_by] if sort_by in averages else result.score(sort_by)
        return score is None, -(score or 0.0)

    return sorted(newest_first, key=to_key)


def _fits(result: StoredResult, wanted: ResultFilterConfig) -> bool:
    texts: list[tuple[str | None, Sequence[str]]] = [
        (wanted.run_name, [result.run_name]),
        (wanted.label, [result.label or ""]),
        (wanted.model, [result.model_name, result.record["model"]["name"]]),
        (wanted.prompt, list(_prompt_texts(result.record["prompt"]))),
    ]
    if any(part is not None and not _is_in(part, values) for part, values in texts):
        return False
    if wanted.task is not None and wanted.task.lower() not in map(str.lower, result.tasks):
        return False
    since = wanted.to_since_time()
    if since is not None and result.finished < since:
        return False
    return _has_adapter(result, wanted.adapter) and _has_average(result, wanted.min_average)


def _is_in(part: str, values: Sequence[str]) -> bool:
    return any(part.lower() in value.lower() for value in values)


def _has_adapter(result: StoredResult, wanted: str | None) -> bool:
    if wanted is None:
        return True
    if wanted.lower() in ("none", "any"):
        return (result.adapter is None) == (wanted.lower() == "none")
    return _is_in(wanted, [result.adapter or ""])


def _has_average(result: StoredResult, minimum: float | None) -> bool:
    averages = [result.average("sts"), result.average("transfer")]
    found = [average for average in averages if average is not None]
    return minimum is None or (bool(found) and found[0] >= minimum)


def _prompt_texts(prompt: dict[str, Any]) -> Iterator[str]:
    """Yields the templates and the texts of the demonstrations."""
    yield prompt["template"]
    for item in (*_items(prompt, "more_templates"), *_items(prompt, "demonstrations")):
        values = item.values() if isinstance(item, dict) else [item]
        yield from (value for value in values if isinstance(value, str))


def _items(prompt: dict[str, Any], key: str) -> list[Any]:
    """Returns a list of the prompt; the schema leaves open whether there is one."""
    value = prompt.get(key)
    return value if isinstance(value, list) else []


def _tasks_of(results: Sequence[StoredResult]) -> list[str]:
    """Returns every task, the seven of the paper's average first."""
    found = dict.fromkeys(task for result in results for task in result.tasks)
    paper = [task for task in PAPER_TASKS if task in found]
    return paper + [task for task in found if task not in PAPER_TASKS]


# --- Cells --------------------------------------------------------------------------------------


def _build_cells(results: Sequence[StoredResult], *, per_task: bool) -> tuple[list[str], _Rows]:
    """Returns header and rows for reading: short names, two decimals."""
    tasks = _tasks_of(results) if per_task else []
    header = ["finished (UTC)", "run", "model", "adapter", "prompt", "dtype", *tasks]
    header += ["STS", "transfer", *([] if per_task else ["tasks"])]
    rows = []
    for result in results:
        cells = [
            f"{result.finished.astimezone(UTC):%Y-%m-%d %H:%M}",
            result.label or result.run_name,
            # Without the organisation in front of a hub name.
            result.model_name.rpartition("/")[2] or result.model_name,
            _shorten_adapter(result.adapter),
            _shorten_prompt(result.record["prompt"]),
            result.record["dtype"],
            *(_format_score(result.score(task)) for task in tasks),
            # Other protocols and probes give numbers that cannot be compared with the usual ones.
            _format_score(result.average("sts"), _others(result, "protocol", usual="paper")),
            _format_score(result.average("transfer"), _others(result, "probe", usual="logistic")),
        ]
        names = list(result.tasks)
        named = ", ".join(names) if len(names) <= _MAX_NAMED_TASKS else f"{len(names)} tasks"
        rows.append([_to_line(cell) for cell in cells + ([] if per_task else [named])])
    return header, rows


def _others(result: StoredResult, key: str, *, usual: str) -> str:
    found = dict.fromkeys(task[key] for task in result.tasks.values())
    return ", ".join(name for name in found if name not in (usual, None))


def _format_score(score: float | None, mark: str = "") -> str:
    if score is None:
        return _MISSING
    return f"{score:.2f} ({mark})" if mark else f"{score:.2f}"


def _shorten_adapter(adapter: str | None) -> str:
    if adapter is None:
        return _MISSING
    path = Path(adapter)
    # A run folder calls it `adapter`, so the run's name says more.
    return (path.parent.name if path.name == "adapter" else path.name) or adapter


def _shorten_prompt(prompt: dict[str, Any]) -> str:
    text = _to_line(prompt["template"])
    if len(text) > _MAX_PROMPT_CHARACTERS:
        text = f"{text[: _MAX_PROMPT_CHARACTERS - 3]}..."
    for key, name in (("demonstrations", "demo"), ("more_templates", "more")):
        text += f" +{len(items)} {name}" if (items := _items(prompt, key)) else ""
    return text


def _to_line(text: str) -> str:
    """Returns the text on one line, without characters that move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


# --- Forms --------------------------------------------------------------------------------------


def _to_table(results: Sequence[StoredResult], per_task: bool) -> str:
    if not results:
        return ""
    header, rows = _build_cells(results, per_task=per_task)
    table = result_table()
    for position, heading in enumerate(header):
        justify: JustifyMethod = "left" if _is_text(position, heading) else "right"
        # On a narrow terminal names fold; times, types and numbers stay whole.
        is_whole = justify == "right" or position in (0, _NUM_TEXT_COLUMNS - 1)
        table.add_column(
            escape(heading),
            justify=justify,
            no_wrap=is_whole,
            overflow="fold",
            min_width=len(heading),
        )
    for row in rows:
        # Names may hold brackets, which rich takes for markup.
        table.add_row(*map(escape, row))
    console = result_console()
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _to_markdown(results: Sequence[StoredResult], per_task: bool) -> str:
    header, rows = _build_cells(results, per_task=per_task)
    rule = ["---" if _is_text(*column) else "---:" for column in enumerate(header)]
    lines = [[_escape_bar(cell) for cell in row] for row in (header, rule, *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _is_text(position: int, heading: str) -> bool:
    return position < _NUM_TEXT_COLUMNS or heading == "tasks"


def _escape_bar(cell: str) -> str:
    return cell.replace("|", "\\|")


def _to_json(results: Sequence[StoredResult], per_task: bool) -> str:
    del per_task
    return f"{json.dumps(_to_plain(results), indent=2)}\n"


def _to_plain(results: Sequence[StoredResult]) -> list[dict[str, Any]]:
    return [{"path": str(result.path), **result.record} for result in results]


def _to_csv(results: Sequence[StoredResult], per_task: bool) -> str:
    """Returns the values as they are stored; what is missing is empty."""
    tasks = _tasks_of(results) if per_task else []
    file = io.StringIO()
    # The averages come before the tasks, so that their columns stay where they are.
    first = ["path", "finished", "run_name", "label", "model", "adapter", "prompt"]
    first += ["num_demonstrations", "dtype", "protocol", "probe", "sts", "transfer"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*first, *(tasks if per_task else ["tasks"])])
    for result in results:
        prompt = result.record["prompt"]
        averages = [result.average("sts"), result.average("transfer")]
        writer.writerow(
            [
                result.path,
                result.record["finished"],
                result.run_name,
                result.label,
                result.model_name,
                result.adapter,
                prompt["template"],
                len(_items(prompt, "demonstrations")),
                result.record["dtype"],
                _others(result, "protocol", usual=""),
                _others(result, "probe", usual=""),
                *averages,
                *(map(result.score, tasks) if per_task else [";".join(result.tasks)]),
            ]
        )
    return file.getvalue()


_RENDERERS: Final[dict[str, Callable[[Sequence[StoredResult], bool], str]]] = {
    "table": _to_table,
    "json": _to_json,
    "csv": _to_csv,
    "markdown": _to_markdown,
}


def _print(results: Sequence[StoredResult], config: ResultsConfig) -> None:
    """Writes to stdout, in whatever encoding it has. That its reader is gone (`head`) is fine."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.stdout.write(_RENDERERS[config.format](results, config.columns == "tasks"))
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more when it ends; that has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise ResultError(f"the list cannot be written to stdout: {error}") from error
