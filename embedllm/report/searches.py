"""The summaries of demonstration searches: reading them, and their part of the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, Final, NoReturn

from jsonschema import Draft202012Validator

from embedllm.errors import ResultError
from embedllm.log import get_logger
from embedllm.program import on_page
from embedllm.report.cells import title_of
from embedllm.report.markdown import code, escape
from embedllm.report.rankings import Candidate, read_ranking
from embedllm.report.rows import ReportRows
from embedllm.report.settings import shorten_model

_MAX_FAULT_CHARACTERS: Final = 160

_log = get_logger(__name__)


@dataclass(frozen=True)
class StoredSearch:
    """One summary.

    Attributes:
        path: The file.
        summary: Its content, checked against `search_schema.json`.
        candidates: The ranking beside it, empty where none was kept.
    """

    path: Path
    summary: Mapping[str, Any]
    candidates: tuple[Candidate, ...] = ()


def read_searches(folder: Path, *, strict: bool) -> list[StoredSearch]:
    """Returns all searches in order of their file names; none when there is no such folder.

    Args:
        folder: The folder.
        strict: Refuse a damaged or foreign JSON file; else it is left out with a warning.

    Raises:
        ResultError: `folder` cannot be read, or `strict` and a file is no summary.
    """
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResultError(
            f"searches={folder} cannot be read ({error.strerror}); it must be a folder of the "
            "summaries that `python -m embedllm search` writes, or not exist"
        ) from error
    searches, faults = [], []
    for path in paths:
        if path.suffix == ".json" and not path.name.startswith("."):
            try:
                ranking = read_ranking(path.with_suffix(".csv"))
                searches.append(StoredSearch(path, _read(path), ranking))
            except (OSError, ValueError, RecursionError, csv.Error) as error:
                faults.append(f"{path}: {error}")
    if faults and strict:
        raise ResultError("\n".join([*faults, "strict=false leaves such files out"]))
    if faults:
        _log.warning("left out %d of the files in %s:\n%s", len(faults), folder, "\n".join(faults))
    return searches


def search_blocks(searches: Sequence[StoredSearch], titles: Mapping[str, str]) -> Iterator[str]:
    """Yields the part of the page about searches; nothing without one.

    Args:
        searches: The searches.
        titles: What the page calls a model, by its full name.
    """
    if not searches:
        return
    yield "## Demonstration searches"
    yield (
        "A search scores PromptEOL with each candidate demonstration and keeps the best one. It "
        "reads the gold scores of its task."
    )
    for search in searches:
        summary = search.summary
        name, dtype = summary["model"]["name"], summary["dtype"]
        model = titles.get(name, shorten_model(name))
        yield f"### {escape(f'{model}, {dtype}: {search.path.stem}')}"
        yield "\n".join(f"- {line}" for line in _describe(search))


def titles_of(report: ReportRows) -> dict[str, str]:
    """Returns what the page calls a model, without the type of its weights, by its full name."""
    return {
        str(facts["model"]["name"]): title.rpartition(f", {facts['dtype']}")[0] or title
        for title, facts in report.models.items()
    }


def _describe(search: StoredSearch) -> Iterator[str]:
    summary = search.summary
    winner, first, cost = summary["winner"], summary["rungs"][0], summary["cost"]
    # A file's folder says only where it lay on one machine.
    candidates = escape(PurePath(summary["candidates"]).name)
    yield (
        f"Candidates: {summary['num_candidates']} ({candidates}), chosen by "
        f"{title_of(summary['task'])}."
    )
    yield (
        f'Winner: candidate {winner["candidate"]}, "{escape(winner["sentence"])}" with the word '
        f'"{escape(winner["word"])}": {winner["score"]:.2f}. Without a demonstration: '
        f"{summary['baseline']:.2f}. Gain: {summary['gain']:+.2f}."
    )
    yield (
        f"First round, {first['candidates']} candidates on {first['pairs']} pairs: "
        f"{first['min']:.2f} to {first['max']:.2f}, quartiles {first['lower_quartile']:.2f}, "
        f"{first['median']:.2f} and {first['upper_quartile']:.2f}, mean {first['mean']:.2f}, "
        f"standard deviation {first['std']:.2f}. {_percent(first['above_baseline'])} of them are "
        f"above the prompt without a demonstration ({first['baseline']:.2f})."
    )
    rounds = ", ".join(f"{r['candidates']} on {r['pairs']}" for r in summary["rungs"])
    yield (
        f"Rounds (candidates on pairs): {rounds}. Cost: {cost['pairs']} scored pairs, "
        f"{_percent(cost['ratio'])} of the {cost['exhaustive_pairs']} of an exhaustive search. "
        f"The units of work took {summary['unit_seconds']:.0f} seconds, all processes together; "
        f"the last call took {summary['seconds']:.0f}."
    )
    if (agreement := summary["agreement"]) is not None:
        yield _describe_agreement(agreement)
    revision = summary["git_revision"]
    yield (
        f"{code(on_page(summary['command']))}; git {escape(revision or 'unknown')}; finished "
        f"{escape(summary['finished'])}; {escape(search.path.name)}."
    )


def _describe_agreement(agreement: Mapping[str, Any]) -> str:
    rungs = ", ".join(map(str, agreement["rungs"]))
    keep = ", ".join(map(str, agreement["keep"]))
    return (
        f"Replayed with {agreement['num_orders']} orders of the pairs, halving over {rungs} pairs "
        f"that keeps {keep or 'all'} finds the best candidate of all in "
        f"{_percent(agreement['same_winner'])} of them, one within {agreement['close_within']} "
        f"points of it in {_percent(agreement['close'])}. Its choice is "
        f"{agreement['mean_regret']:.3f} points below the best on average and "
        f"{agreement['max_regret']:.2f} at worst, at {_percent(agreement['cost_ratio'])} of the "
        "cost of an exhaustive search."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _read(path: Path) -> dict[str, Any]:
    summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    text = resources.files("embedllm.report").joinpath("search_schema.json").read_text("utf-8")
    errors = sorted(
        Draft202012Validator(json.loads(text)).iter_errors(summary), key=lambda e: e.json_path
    )
    if errors:
        fault = f"{errors[0].json_path}: {errors[0].message}"[:_MAX_FAULT_CHARACTERS]
        raise ValueError(f"this is no summary of a search: {fault}")
    content: dict[str, Any] = summary
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
