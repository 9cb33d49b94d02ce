"""The part of the page that lists where every number comes from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC
from typing import Any, Final

from embedllm.program import on_page
from embedllm.report.markdown import code, escape
from embedllm.report.rows import ReportRows, Run
from embedllm.report.settings import shorten_adapter

# The commit is a name, not a checksum to verify: enough of it to find it.
_REVISION_CHARACTERS: Final = 12
_CHANGES: Final = "+changes"
_LIBRARIES: Final = ("torch", "transformers")


def run_blocks(report: ReportRows) -> Iterator[str]:
    """Yields the numbered runs, then the results that no number on the page is from."""
    yield "## Runs"
    yield (
        "Every result that a row uses, in the order of finishing: the command, the model and the "
        "type of its weights, the seed, the seconds of the whole scoring (of them those of the "
        "language model), the machine, the versions, when it ended (UTC), the file in the store."
    )
    yield "\n".join(f"{run.number}. {_describe(run)}" for run in report.runs)
    if report.unused:
        files = ", ".join(escape(result.path.name) for result in report.unused)
        number = len(report.unused)
        text = "1 result is" if number == 1 else f"{number} results are"
        yield (
            f"{text} not used, because newer scores of the same setting, or scores on verified "
            f"texts, take the place of all that they hold: {files}."
        )


def _describe(run: Run) -> str:
    record, adapter = run.result.record, run.result.adapter
    facts = [
        _describe_command(record["command"]),
        escape(run.base),
        *([f"adapter {escape(shorten_adapter(adapter))}"] if adapter else []),
        f"seed {record['seed']}",
        _describe_seconds(record),
        _describe_machine(record["hardware"]),
        f"git {_describe_revision(record['git_revision'])}",
        *(f"{name} {escape(str(record['versions'].get(name, '?')))}" for name in _LIBRARIES),
        f"{run.result.finished.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
        code(run.result.path.name),
    ]
    return "; ".join(facts)


def _describe_command(command: list[str]) -> str:
    if not command:
        return "called from Python"
    is_script = command[0].endswith(".py")
    return code(on_page(shlex.join([*(["python"] if is_script else []), *command])))


def _describe_seconds(record: dict[str, Any]) -> str:
    text = f"{record['seconds']:.1f} s"
    encode = record["timing"].get("encode")
    return f"{text} (encoding {encode:.1f} s)" if isinstance(encode, int | float) else text


def _describe_machine(hardware: dict[str, Any]) -> str:
    parts = [str(hardware[key]) for key in ("gpu", "machine", "system") if hardware.get(key)]
    if (threads := hardware.get("threads")) is not None:
        parts.append("1 thread" if threads == 1 else f"{threads} threads")
    return escape(", ".join(parts))


def _describe_revision(revision: str | None) -> str:
    if revision is None:
        return "unknown"
    commit, changes, _ = revision.partition(_CHANGES)
    return escape(commit[:_REVISION_CHARACTERS] + (" with changes" if changes else ""))
