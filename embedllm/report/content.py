"""Everything that a report shows, read once for the Markdown tables and the HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedllm import program
from embedllm.config import ReportConfig
from embedllm.errors import ResultError
from embedllm.report.learning_curves import LearningCurve, read_learning_curves
from embedllm.report.measurements import Measurements, read_measurements
from embedllm.report.published import Published, load_published
from embedllm.report.rows import ReportRows, build_rows
from embedllm.report.searches import StoredSearch, read_searches
from embedllm.report.sizes import count_models
from embedllm.results import StoredResult, read_results


@dataclass(frozen=True)
class TableContent:
    """What the Markdown tables show; the store alone decides it.

    Attributes:
        store: `paths.results_dir`, as a page names it.
        report: The rows of the store.
        searches: Demonstration searches.
        published: The published numbers.
    """

    store: str
    report: ReportRows
    searches: tuple[StoredSearch, ...]
    published: Published


@dataclass(frozen=True)
class PageContent:
    """What the HTML page shows besides.

    Attributes:
        tables: The content of the tables.
        command: The command that makes the page.
        curves: Learning curves.
        measurements: Speed and memory.
        sizes: Number of parameters by title of the model, of those that are known.
    """

    tables: TableContent
    command: str
    curves: tuple[LearningCurve, ...]
    measurements: Measurements
    sizes: Mapping[str, int]


def read_tables(config: ReportConfig) -> TableContent:
    """Returns the content of the tables.

    Raises:
        ResultError: There is no store, it is empty, or `strict` and a file is damaged.
    """
    store = Path(config.paths.results_dir)
    results = _read_store(store, strict=config.strict)
    if not results:
        raise ResultError(
            f"the results store {store} is empty; {program.shown('evaluate')} and "
            f"{program.shown('train')} fill it, and paths.results_dir says where it is"
        )
    searches = read_searches(Path(config.searches), strict=config.strict)
    return TableContent(show_folder(store), build_rows(results), tuple(searches), load_published())


def read_page(config: ReportConfig, tables: TableContent) -> PageContent:
    """Returns the content of the HTML page.

    Raises:
        ResultError: `strict` and a file is damaged.
    """
    models = {
        title: facts["model"]
        for title, facts in tables.report.models.items()
        if any(row.base == title and row.mean is not None for row in tables.report.rows)
    }
    return PageContent(
        tables=tables,
        command=_command_of(config),
        curves=read_learning_curves(Path(config.runs), strict=config.strict),
        measurements=read_measurements(Path(config.measurements), strict=config.strict),
        sizes=count_models(models, Path(config.paths.cache_dir)),
    )


def show_folder(folder: Path) -> str:
    """Returns a folder as a page names it: nothing that only one machine knows."""
    here = Path.cwd()
    place = folder.resolve()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else folder.name


def _command_of(config: ReportConfig) -> str:
    """Returns the command with the folders that are not the usual ones."""
    folders = {
        "paths.results_dir": (config.paths.results_dir, "results"),
        "runs": (config.runs, "outputs"),
        "measurements": (config.measurements, "benchmarks/results"),
    }
    shown = {key: (show_folder(Path(value)), usual) for key, (value, usual) in folders.items()}
    words = [f"{key}={place}" for key, (place, usual) in shown.items() if place != usual]
    return shlex.join(["python", "-m", "embedllm", "report", *words])


def _read_store(store: Path, *, strict: bool) -> list[StoredResult]:
    try:
        return read_results(store, strict=strict)
    except ResultError as error:
        if not (strict and store.is_dir()):
            raise
        raise ResultError(f"{error}\nstrict=false leaves such files out") from error
