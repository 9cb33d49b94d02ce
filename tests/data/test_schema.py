from __future__ import annotations

import pytest

from embedllm.data.schema import (
    MISSING,
    ColumnNames,
    Example,
    Problem,
    Unreadable,
    find_negatives,
    resolve_columns,
    to_example,
)
from embedllm.errors import DataError

TRIPLET = ("sent0", "sent1", "hard_neg")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (TRIPLET, TRIPLET),
        (("sent0", "sent1"), ("sent0", "sent1")),
        (("hard_neg", "sent1", "sent0"), TRIPLET),
        (("anchor", "positive", "negative"), ("anchor", "positive", "negative")),
        (("query", "positive", "negative"), ("query", "positive", "negative")),
        (("anchor", "positive"), ("anchor", "positive")),
        (("anchor", "positive", "negatives"), ("anchor", "positive", "negatives")),
        (("sent0", "sent1", "negatives"), ("sent0", "sent1", "negatives")),
        ((*TRIPLET, "hard_neg_1", "hard_neg_2"), (*TRIPLET, "hard_neg_1", "hard_neg_2")),
        (
            ("anchor", "positive", "negative_1", "negative_2"),
            ("anchor", "positive", "negative_1", "negative_2"),
        ),
        (("id", *TRIPLET, "source", "neg_score"), TRIPLET),
    ],
)
def test_layouts_are_recognized(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert resolve_columns(names, columns=None).in_order == expected


def test_numbered_negatives_come_in_numeric_order() -> None:
    names = ["hard_neg_10", "hard_neg_2", "hard_neg", "hard_neg_0", "hard_neg_1", "hard_neg_x"]
    expected = ("hard_neg", "hard_neg_0", "hard_neg_1", "hard_neg_2", "hard_neg_10")
    assert find_negatives(names) == expected


def test_unknown_columns_list_what_was_found_what_is_allowed_and_the_keys() -> None:
    with pytest.raises(DataError) as caught:
        resolve_columns(["premise", "hypothesis", "x" * 500], columns=None)
    message = str(caught.value)
    for part in ("'premise', 'hypothesis'", "sent0, sent1", "anchor or query", "`negatives`"):
        assert part in message
    for key in ("anchor", "positive", "negatives"):
        assert f"data.columns.{key}" in message
    assert "x" * 100 not in message


def test_two_layouts_at_once_are_ambiguous() -> None:
    with pytest.raises(DataError, match="more than one layout"):
        resolve_columns(["sent0", "sent1", "anchor", "positive"], columns=None)


def test_explicit_columns_win_over_the_layout() -> None:
    columns = ColumnNames("sent1", "sent0", ("hard_neg",))
    assert resolve_columns(TRIPLET, columns=columns) == columns
    unsupervised = ColumnNames("sent0", "sent0")
    assert resolve_columns(TRIPLET, columns=unsupervised) == unsupervised


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (TRIPLET, ColumnNames("sent0", "label", ("neg",)), "missing: 'label', 'neg'"),
        (("sent0", "sent0", "sent1"), None, "more than once: 'sent0'"),
        (TRIPLET, ColumnNames("sent0", "sent1", ("sent1",)), "data.columns.negatives repeats"),
        (TRIPLET, ColumnNames("sent0", "sent0", ("sent0",)), "data.columns.negatives repeats"),
        (TRIPLET, ColumnNames("sent0", "sent1", ("hard_neg", "hard_neg")), "repeats a column"),
    ],
)
def test_impossible_choices_are_refused(
    names: tuple[str, ...], columns: ColumnNames | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        resolve_columns(names, columns=columns)


def test_to_example_keeps_texts_verbatim() -> None:
    values = [" A  b\n", "None", "caf\u00e9 \U0001f600"]
    assert to_example(values, TRIPLET) == Example(" A  b\n", "None", ("caf\u00e9 \U0001f600",))


def test_lists_give_any_number_of_negatives() -> None:
    names = ("anchor", "positive", "negatives")
    assert to_example(["a", "b", []], names) == Example("a", "b", ())
    assert to_example(["a", "b", ["c", "d"]], names) == Example("a", "b", ("c", "d"))
    assert to_example(["a", "b", "c"], names) == Example("a", "b", ("c",))


@pytest.mark.parametrize(
    ("values", "column", "reason"),
    [
        (["", "b", "c"], "sent0", "is empty"),
        (["a", " \t\n\u00a0", "c"], "sent1", "is empty"),
        (["a", "b", None], "hard_neg", "is null"),
        (["a", "b", MISSING], "hard_neg", "is missing"),
        (["a", 3, "c"], "sent1", "is int, expected text"),
        (["a", float("nan"), "c"], "sent1", "is float, expected text"),
        ([["a"], "b", "c"], "sent0", "is list, expected text"),
        (["a", "b", ["c", ""]], "hard_neg[1]", "is empty"),
        (["a", "b", ["c", None]], "hard_neg[1]", "is null"),
        (["a", "b", [["c"]]], "hard_neg[0]", "is list, expected text"),
        (["a", "b", "half \ud83d"], "hard_neg", "has half of a surrogate pair"),
        (["a", Unreadable("is odd"), "c"], "sent1", "is odd"),
    ],
)
def test_faults_are_named(values: list[object], column: str, reason: str) -> None:
    assert to_example(values, TRIPLET) == Problem(column, reason)
