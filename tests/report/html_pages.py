"""Makes HTML pages for the tests: of the kept results, and of few made-up ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from documents import documented
from tiny_runs import REPOSITORY, restored_logging

from embedllm import cli
from embedllm.report.content import PageContent, TableContent
from embedllm.report.html.page import build_html
from embedllm.report.learning_curves import LearningCurve
from embedllm.report.measurements import Measurements
from embedllm.report.published import load_published
from embedllm.report.rows import build_rows
from embedllm.report.searches import StoredSearch
from embedllm.results import StoredResult


def write_kept_page(folder: Path) -> Path:
    """Runs the documented command and returns the page of the results that come with the code."""
    command = (
        "python -m embedllm report paths.results_dir=benchmarks/results/store "
        "runs=benchmarks/results"
    )
    words = documented(command, page="docs/report.md")
    page = folder / "report.html"
    with contextlib.chdir(REPOSITORY), restored_logging():
        cli.main([*words[3:], f"output={folder}/results.md", f"html={page}"])
    assert command in page.read_text(encoding="utf-8")
    assert (REPOSITORY / "docs/results.md").read_bytes() == (folder / "results.md").read_bytes()
    return page


def make_content(
    *results: StoredResult,
    searches: tuple[StoredSearch, ...] = (),
    curves: tuple[LearningCurve, ...] = (),
    measurements: Measurements | None = None,
    sizes: Mapping[str, int] | None = None,
) -> PageContent:
    """Returns the content of a page of these results."""
    tables = TableContent("results", build_rows(results), searches, load_published())
    return PageContent(tables, "make it", curves, measurements or Measurements(), sizes or {})


def make_html(*results: StoredResult, **parts: Any) -> str:
    """Returns the page of these results."""
    return build_html(make_content(*results, **parts))
