"""Makes pages and reads them as a Markdown reader does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_records import DEV, store_method

from embedllm.report.page import build_page
from embedllm.report.published import load_published
from embedllm.report.rows import build_rows
from embedllm.report.searches import StoredSearch
from embedllm.results import StoredResult

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# Also what JSON may hold but UTF-8 cannot: lone surrogates.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40) | st.text(
    "|`\\\n *_<>[]()&;#~!$-=\"'1.a", max_size=20
)
FOUR = {"mean": 54.0, "plain": 55.0, "prompteol": 66.0, "demonstration": 73.0}


def make_page(*results: StoredResult, searches: tuple[StoredSearch, ...] = ()) -> str:
    """Returns the page of these results."""
    return build_page(build_rows(results), searches, load_published(), store="results")


def four_methods(scores: dict[str, float], **changes: Any) -> list[StoredResult]:
    """Returns one result for each method, with its score on the dev split."""
    return [store_method(label, {DEV: score}, **changes) for label, score in scores.items()]


def visible(text: str) -> str:
    """Returns a text as a reader sees it: on one line, without what cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "-"


def text_of(token: Token) -> str:
    """Returns the text that a Markdown reader shows for an inline token."""
    return "".join(child.content for child in token.children or ())


def iterate_tables(page: str) -> Iterator[list[list[str]]]:
    """Yields every table as a Markdown reader sees it, with its heading row."""
    rows: list[list[str]] = []
    tokens = PARSER.parse(page)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            assert following is not None
            rows[-1].append(text_of(following))
        elif token.type == "table_close":
            yield rows


def find_table(page: str, *headings: str) -> list[list[str]]:
    """Returns the first table whose heading row begins like this, without that row."""
    return next(
        rows[1:] for rows in iterate_tables(page) if rows[0][: len(headings)] == [*headings]
    )
