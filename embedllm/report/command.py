"""What `python -m embedllm report` does: read the store or a sweep, make the page, write it."""

from __future__ import annotations

import sys
from pathlib import Path

from embedllm import program
from embedllm.config import ReportConfig
from embedllm.errors import CheckpointError, ConfigError, ResultError
from embedllm.files import write_atomically
from embedllm.invocation import Invocation
from embedllm.log import get_logger
from embedllm.report.page import build_page
from embedllm.report.published import load_published
from embedllm.report.rows import build_rows
from embedllm.report.searches import read_searches
from embedllm.report.sweep_page import report_sweep
from embedllm.results import StoredResult, read_results

_log = get_logger(__name__)


def run_report(config: ReportConfig, invocation: Invocation) -> None:
    """Writes the page of the store and says how much is on it; that of a sweep is printed too.

    Args:
        config: The checked configuration.
        invocation: Not used: this command has no folder, and the page must not depend on where
            it is written.

    Raises:
        ResultError: There is no store, it is empty, `strict` and a file is damaged, or the page
            cannot be written.
        ConfigError: `output` is a folder, or lies in the store.
    """
    if config.sweep_folder is not None:
        sys.stdout.write(report_sweep(config))
        return
    store, output = Path(config.paths.results_dir), Path(config.output)
    _check_output(output, store)
    results = _read_store(store, strict=config.strict)
    if not results:
        raise ResultError(
            f"the results store {store} is empty; {program.shown('evaluate')} and "
            f"{program.shown('train')} fill it, and paths.results_dir says where it is"
        )
    searches = read_searches(Path(config.searches), strict=config.strict)
    report = build_rows(results)
    page = build_page(report, searches, load_published(), store=_show_folder(store))
    _write(output, page)
    _log.info("%s: %d results in %d rows", output, len(results), len(report.rows))


def _read_store(store: Path, *, strict: bool) -> list[StoredResult]:
    try:
        return read_results(store, strict=strict)
    except ResultError as error:
        if not (strict and store.is_dir()):
            raise
        raise ResultError(f"{error}\nstrict=false leaves such files out") from error


def _check_output(output: Path, store: Path) -> None:
    if output.is_dir():
        raise ConfigError(f"output={output} is a folder; it must be the file of the page")
    # Its name could be that of a result.
    if output.resolve().is_relative_to(store.resolve()):
        raise ConfigError(
            f"output={output} is in the results store {store}; set it to another place"
        )


def _show_folder(folder: Path) -> str:
    """Returns the store as the page names it: nothing that only one machine knows."""
    here = Path.cwd()
    place = folder.resolve()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else folder.name


def _write(output: Path, page: str) -> None:
    try:
        write_atomically(output, page.encode("utf-8"))
    except (CheckpointError, OSError) as error:
        raise ResultError(
            f"output={output} cannot be written: {error.__cause__ or error}. A page that was there "
            "is still there; make room, or set output to another place"
        ) from error
