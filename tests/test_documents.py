"""No command and no snippet of README and docs is without a test that runs it."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from documented_by import (
    COMPOSED,
    NOT_RUN,
    PAGE_COMMANDS,
    PAGE_SNIPPETS,
    RUN_BY,
    RUN_BY_SLOW,
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


@cache
def _file(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def _function(test: str) -> ast.FunctionDef:
    """Returns the function that `path::name` names."""
    path, _, name = test.partition("::")
    functions = [n for n in _file(path).body if isinstance(n, ast.FunctionDef) and n.name == name]
    assert functions, f"there is no {test}"
    return functions[0]


def _texts(test: str) -> set[str]:
    """Returns the texts in a function, its decorators and the module's constants that it names."""
    function = _function(test)
    named = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    assigned = [
        node for node in _file(test.partition("::")[0]).body if isinstance(node, ast.Assign)
    ]
    constants = [
        n for n in assigned if named & {t.id for t in n.targets if isinstance(t, ast.Name)}
    ]
    nodes = [node for part in (function, *constants) for node in ast.walk(part)]
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _is_slow(test: str) -> bool:
    marks = [ast.unparse(node) for node in _function(test).decorator_list]
    body = _file(test.partition("::")[0]).body
    marks += [ast.unparse(n.value) for n in body if "pytestmark" in ast.unparse(n).split(" =")[0]]
    return any(re.fullmatch(r"\[?pytest\.mark\.slow(,.*)?", mark) for mark in marks)


@pytest.mark.parametrize("command", [*RUN_BY, *RUN_BY_SLOW])
def test_the_named_test_has_the_command(command: str) -> None:
    test = {**RUN_BY, **RUN_BY_SLOW}[command]
    assert command in _texts(test)
    assert _is_slow(test) == (command in RUN_BY_SLOW)


def test_the_tests_exist() -> None:
    for test in (PAGE_COMMANDS, PAGE_SNIPPETS, COMPOSED, *SNIPPETS.values()):
        assert _function(test).name.startswith("test_")


def test_nothing_in_the_list_is_for_a_command_that_is_gone() -> None:
    everything = [command for page in pages() for command in shown_commands(page)]
    assert len(everything) > 100
    assert not {*RUN_BY, *RUN_BY_SLOW} - set(everything)
    assert not RUN_BY.keys() & RUN_BY_SLOW.keys()
    for pattern, _ in NOT_RUN:
        assert any(re.search(pattern, command) for command in everything), pattern


def test_a_command_that_nobody_runs_is_found() -> None:
    assert find_test("docs/design.md", "python train.py model=opt-125m") is None
    assert find_test("README.md", "curl https://example.org") is None
    # One word more than what a test has.
    assert find_test("docs/demo.md", "python -m embedllm demo host=::") is None
