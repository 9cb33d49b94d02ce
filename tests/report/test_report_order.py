"""What the page states about the paper's order of the four methods."""

from __future__ import annotations

from itertools import permutations

import pytest
from report_pages import FOUR, four_methods, make_page
from report_records import DEV, MODEL, demonstration, seven, store_method, store_result

from embedllm.report.methods import METHODS

ORDER = r"Mean pooling < Plain prompt < PromptEOL < PromptEOL + demonstration"


def _statement(page: str, where: str = "STS-B dev") -> str:
    return next(line for line in page.splitlines() if f"on {where}" in line and ORDER in line)


def test_the_order_holds() -> None:
    assert _statement(make_page(*four_methods(FOUR))) == (
        f"The paper's order ({ORDER}) holds on STS-B dev: 54.00 < 55.00 < 66.00 < 73.00."
    )


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"plain": 53.0}, "Plain prompt (53.00) is not above Mean pooling (54.00)."),
        ({"plain": 54.0}, "Plain prompt (54.00) is not above Mean pooling (54.00)."),
        (
            {"plain": 54.0, "demonstration": 60.0},
            "Plain prompt (54.00) is not above Mean pooling (54.00) and PromptEOL + demonstration "
            '"Sports" (60.00) is not above PromptEOL (66.00).',
        ),
    ],
)
def test_the_order_does_not_hold(changes: dict[str, float], faults: str) -> None:
    assert _statement(make_page(*four_methods(FOUR | changes))) == (
        f"The paper's order ({ORDER}) does not hold on STS-B dev: {faults}"
    )


@pytest.mark.parametrize("order", permutations(FOUR.values()))
def test_the_order_holds_for_one_order_alone(order: tuple[float, ...]) -> None:
    statement = _statement(make_page(*four_methods(dict(zip(FOUR, order, strict=True)))))
    assert (") holds on" in statement) == (list(order) == sorted(order))


@pytest.mark.parametrize("missing", FOUR)
def test_the_order_is_not_stated_without_a_row(missing: str) -> None:
    scores = {label: score for label, score in FOUR.items() if label != missing}
    # Read from another layer it is no row of the method; scored elsewhere it has no score here.
    other = store_method(missing, {DEV: 99.0}, model={**MODEL, "layer": 3})
    statement = _statement(
        make_page(*four_methods(scores), store_method(missing, {"STS12": 1.0}), other)
    )
    assert statement.endswith(
        f"on STS-B dev cannot be said: there is no score for {METHODS[missing].title}."
    )


def test_the_best_demonstration_counts_and_is_named() -> None:
    worse = store_result({DEV: 60.0}, label="demonstration", prompt=demonstration("Music"))
    statement = _statement(make_page(*four_methods(FOUR), worse))
    assert ") holds on STS-B dev" in statement
    assert statement.endswith(
        "For PromptEOL + demonstration this is the best of 2 rows: "
        'PromptEOL + demonstration "Sports" (73.00).'
    )


def test_the_order_of_the_means_is_stated_when_all_four_have_one() -> None:
    results = [store_method(label, seven(score)) for label, score in FOUR.items()]
    assert ") holds on the mean of the seven" in _statement(
        make_page(*results), "the mean of the seven"
    )
    assert "on the mean of the seven" not in make_page(*results[1:])


def test_models_and_types_are_stated_apart() -> None:
    page = make_page(*four_methods(FOUR), *four_methods({**FOUR, "plain": 1.0}, dtype="bfloat16"))
    statements = [line for line in page.splitlines() if f"({ORDER})" in line]
    assert [") holds" in line for line in statements] == [False, True]
