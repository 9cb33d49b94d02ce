"""Texts, code and tables in Markdown, whatever signs they are made of."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from report_pages import ANY_TEXT, PARSER, iterate_tables, text_of, visible

from embedllm.report.markdown import code, escape, join_words, table


@settings(deadline=None)
@given(ANY_TEXT)
@example("_a_ *b* __c__ x_y_z ~~d~~")
@example("&amp; &#60; <b> </b> <!-- & < >")
@example("[a](b) ![c](d) `e` \\`f| \\| #")
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    for page in (f"see {escape(text)} here", f"## See {escape(text)} here"):
        [inline] = [token for token in PARSER.parse(page) if token.type == "inline"]
        assert text_of(inline).lower() == f"see {visible(text)} here".lower()
        assert {child.type for child in inline.children or ()} <= {"text", "text_special"}


@settings(deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), max_size=4))
def test_no_text_breaks_a_table(rows: list[tuple[str, str, str]]) -> None:
    header = ["a", "b", "c"]
    page = table(header, [[escape(cell) for cell in row] for row in rows])
    [found] = iterate_tables(page)
    assert found == [header, *[[visible(cell) for cell in row] for row in rows]]


@settings(deadline=None)
@given(ANY_TEXT)
def test_code_is_shown_as_it_is(text: str) -> None:
    [inline] = [t for t in PARSER.parse(f"- {code(text)}; more") if t.type == "inline"]
    first, *_ = inline.children or ()
    assert first.type == "code_inline"
    visible = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
    # Of a code of spaces alone Markdown takes none away.
    assert first.content == visible or not visible.strip(" ")


def test_a_table_refuses_other_numbers_of_cells_and_line_feeds() -> None:
    for row in (["1"], ["1", "2", "3"], ["1", "2\n3"]):
        with pytest.raises(ValueError, match="no row of 2 cells"):
            table(["a", "b"], [row])


def test_join_words() -> None:
    found = [join_words(list(words)) for words in ("a", "ab", "abc")]
    assert found == ["a", "a and b", "a, b and c"]
