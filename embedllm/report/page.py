"""The page: all its parts, in order, as one Markdown text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from embedllm.program import on_page
from embedllm.report.cells import MARK
from embedllm.report.geometry_section import geometry_blocks
from embedllm.report.markdown import escape, link
from embedllm.report.published import Published
from embedllm.report.rows import ReportRows
from embedllm.report.runs_section import run_blocks
from embedllm.report.searches import StoredSearch, search_blocks, titles_of
from embedllm.report.sts_sections import comparison_blocks, later_blocks, model_blocks
from embedllm.report.transfer_section import transfer_blocks

_DEFAULT_STORE = "results"


def build_page(
    report: ReportRows, searches: Sequence[StoredSearch], published: Published, *, store: str
) -> str:
    """Returns the page. The same arguments give the same text, anywhere and at any time.

    Args:
        report: The rows of the store.
        searches: Summaries of demonstration searches.
        published: The published numbers.
        store: `paths.results_dir` in the command that the page shows.
    """
    blocks = [
        *_introduction(report, published, store),
        *model_blocks(report),
        *comparison_blocks(report, published),
        *later_blocks(report, published),
        *transfer_blocks(report, published),
        *geometry_blocks(report.rows),
        *search_blocks(searches, titles_of(report)),
        *run_blocks(report),
        *_published_blocks(published),
    ]
    return "\n\n".join(blocks) + "\n"


def _introduction(report: ReportRows, published: Published, store: str) -> Iterator[str]:
    place = "" if store == _DEFAULT_STORE else f" {shlex.quote(f'paths.results_dir={store}')}"
    paper = link(published.paper_title, f"https://arxiv.org/abs/{published.paper_arxiv}")
    yield "# Results"
    yield (
        f"What the results store holds, beside the published numbers of PromptEOL ({paper}, "
        f"{escape(published.paper_authors)}) and of later papers. The page is made by"
    )
    yield f"```bash\n{on_page('python -m embedllm report')}{place}\n```"
    yield (
        f"from {len(report.runs) + len(report.unused)} results and from the file of published "
        "numbers that comes with the package. Nothing in it is typed by hand."
    )
    lines = [
        "STS scores are 100 x Spearman between cosines and human judgements. For STS12 to STS16 "
        "this is one correlation over the pairs of all subsets of the year together.",
        "Transfer scores are the accuracy of a classifier on frozen vectors, in percent.",
        "A mean is over the seven tasks, of scores rounded to two decimals. It is there only where "
        "all seven are.",
        "All results of one setting (model, type, prompt, layer, pooling, adapter) are one row; "
        "the newest score counts. Transfer scores with several seeds are the mean over the seeds "
        "\u00b1 their standard deviation (n - 1).",
        "Hardware decides how long a run takes and is no part of a row. The column runs leads to "
        "the list of runs at the end.",
        "The best score of a column is bold where there are several.",
    ]
    scores = [score for row in report.rows for score in row.scores.values()]
    if not all(score.is_verified for score in scores):
        lines.append(
            f"{MARK} marks scores with evaluation.verify=counts: their texts may be others than "
            "the published ones. They take part in no comparison."
        )
    yield "\n".join(f"- {line}" for line in lines)


def _published_blocks(published: Published) -> Iterator[str]:
    yield "## What is published, and what is absent"
    yield "The published numbers on this page were read in:"
    yield "\n".join(f"- {link(s.text, s.url)}" for s in published.sources.values())
    yield "Not shown, because it was not published or could not be read:"
    yield "\n".join(f"- {escape(sentence)}" for sentence in published.absent)
