"""No command and no snippet of README and docs is without a test that runs it."""

from __future__ import annotations

import re

import pytest
from documented_by import (
    COMPOSED,
    NOT_RUN,
    PAGE_COMMANDS,
    PAGE_SNIPPETS,
    RUN_BY,
    RUN_PAGES,
    SNIPPETS,
    find_test,
)
from documents import ROOT, pages, shown_commands, snippets


@pytest.mark.parametrize("page", pages())
def test_every_command_has_a_test(page: str) -> None:
    without = [command for command in shown_commands(page) if find_test(page, command) is None]
    assert not without, f"{page}: no test runs {without}; see tests/documented_by.py"


@pytest.mark.parametrize("page", pages())
def test_every_snippet_has_a_test(page: str) -> None:
    if snippets(page):
        assert page in SNIPPETS or page in RUN_PAGES, f"{page}: no test runs its Python"


def test_the_tests_exist() -> None:
    named = {test for _, test in RUN_BY} | {PAGE_COMMANDS, PAGE_SNIPPETS, COMPOSED}
    for test in sorted(named | set(SNIPPETS.values())):
        path, _, function = test.partition("::")
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {function}", source, re.MULTILINE), test


def test_nothing_in_the_list_is_for_a_command_that_is_gone() -> None:
    everything = [command for page in pages() for command in shown_commands(page)]
    assert len(everything) > 100
    for pattern, _ in (*RUN_BY, *NOT_RUN):
        assert any(re.search(pattern, command) for command in everything), pattern


def test_a_command_that_nobody_runs_is_found() -> None:
    assert find_test("docs/design.md", "python train.py model=opt-125m") is None
    assert find_test("README.md", "curl https://example.org") is None
