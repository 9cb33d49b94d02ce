"""What `python -m embedllm report` does: read the store or a sweep, make the pages, write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedllm.config import ReportConfig
from embedllm.console import print_line
from embedllm.errors import CheckpointError, ConfigError, ResultError
from embedllm.files import write_atomically
from embedllm.invocation import Invocation
from embedllm.log import get_logger
from embedllm.report.content import read_page, read_tables
from embedllm.report.html.libraries import check_libraries
from embedllm.report.page import build_page
from embedllm.report.sweep_page import report_sweep

if TYPE_CHECKING:
    from rich.console import Console

_log = get_logger(__name__)


def run_report(config: ReportConfig, invocation: Invocation) -> None:
    """Writes the pages of the store and says how much is on them; that of a sweep is printed too.

    Args:
        config: The checked configuration.
        invocation: Not used: this command has no folder, and the pages must not depend on where
            they are written.

    Raises:
        ResultError: There is no store, it is empty, `strict` and a file is damaged, or a page
            cannot be written.
        ConfigError: `output` or `html` is a folder, lies in the store, or is the other one; or a
            library for `html` is missing.
    """
    if config.sweep_folder is not None:
        text = report_sweep(config)
        record = {"sweep": config.sweep_folder, "text": text}
        invocation.show(record, lambda console: print_line(console, text.rstrip("\n")))
        return
    store, output = Path(config.paths.results_dir), Path(config.output)
    _check_output("output", output, store)
    if config.html is not None:
        _check_output("html", Path(config.html), store)
        if Path(config.html).resolve() == output.resolve():
            raise ConfigError(f"output and html are both {output}; html=null makes no HTML page")
        check_libraries()
    tables = read_tables(config)
    page = build_page(tables.report, tables.searches, tables.published, store=tables.store)
    # Both are made before the first is written.
    html = None
    if config.html is not None:
        from embedllm.report.html.page import build_html

        html = build_html(read_page(config, tables))
    _write("output", output, page)
    report = tables.report
    number = len(report.runs) + len(report.unused)
    _log.info("%s: %d results in %d rows", output, number, len(report.rows))
    if config.html is not None and html is not None:
        _write("html", Path(config.html), html)
        _log.info("%s: %.2f MB, with pictures", config.html, len(html.encode()) / 1e6)
    written = {"output": str(output), "html": config.html}

    def draw(console: Console) -> None:
        for path in filter(None, written.values()):
            print_line(console, path)

    invocation.show({**written, "num_results": number, "num_rows": len(report.rows)}, draw)


def _check_output(key: str, output: Path, store: Path) -> None:
    if output.is_dir():
        raise ConfigError(f"{key}={output} is a folder; it must be the file of the page")
    # Its name could be that of a result.
    if output.resolve().is_relative_to(store.resolve()):
        raise ConfigError(
            f"{key}={output} is in the results store {store}; set it to another place"
        )


def _write(key: str, output: Path, page: str) -> None:
    try:
        write_atomically(output, page.encode("utf-8"))
    except (CheckpointError, OSError) as error:
        raise ResultError(
            f"{key}={output} cannot be written: {error.__cause__ or error}. A page that was there "
            f"is still there; make room, or set {key} to another place"
        ) from error
