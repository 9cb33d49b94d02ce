"""The tables of scores: best ones, other protocols and texts, beside published numbers."""

from __future__ import annotations

import re

from report_pages import FOUR, find_table, four_methods, iterate_tables, make_page
from report_records import DEV, seven, store_method, store_result
from stored_results import make_task


def test_the_best_of_each_column_is_bold() -> None:
    page = make_page(
        store_method("plain", {DEV: 55.0, "STS12": 40.0}),
        store_method("prompteol", {DEV: 66.004, "STS13": 70.0}),
        store_method("demonstration", {DEV: 66.0, "STS12": 41.0}),
    )
    plain, prompteol, icl = [
        line.split(" | ") for line in page.splitlines() if re.match(r"\| (Plain|PromptEOL)", line)
    ][:3]
    # Dev, STS12, STS13; equal ones share it, a lone one has nothing to be better than.
    assert plain[2:5] == ["55.00", "40.00", "-"]
    assert prompteol[2:5] == ["**66.00**", "-", "70.00"]
    assert icl[2:5] == ["**66.00**", "**41.00**", "-"]


def test_each_row_leads_to_its_runs() -> None:
    page = make_page(*four_methods(FOUR), store_method("plain", seven(70.0)))
    rows = {row[0]: row for row in find_table(page, "method", "source", "STS-B dev")}
    assert rows["Plain prompt"][-1] == "2, 5"
    assert rows["Plain prompt"][2:-1] == ["55.00", *["70.00"] * 8]
    assert rows["PromptEOL"][2:] == ["66.00", *["-"] * 8, "3"]
    runs = re.findall(r"^(\d+)\. (.*)$", page, re.MULTILINE)
    assert [number for number, _ in runs] == ["1", "2", "3", "4", "5"]


def test_another_protocol_has_its_own_table() -> None:
    tasks = {task: make_task(50.0, protocol="mteb") for task in seven(0)}
    page = make_page(store_result(seven(60.0)), store_result(tasks=tasks))
    usual, other = [
        rows[1:] for rows in iterate_tables(page) if rows[0][:2] == ["method", "source"]
    ][:2]
    assert [row[-2] for row in usual] == ["60.00"]
    assert [row[-2] for row in other] == ["50.00"]
    compared = find_table(page, "model", "method", "STS12")
    assert [row[-2] for row in compared if row[-1] != "paper"] == ["60.00"]


def test_tasks_beyond_the_seven_are_shown() -> None:
    page = make_page(store_result({"sample-test": 42.0, "a_b": 1.0}))
    headings = next(rows[0] for rows in iterate_tables(page) if rows[0][0] == "method")
    assert headings[-4:] == ["mean", "a_b", "sample-test", "runs"]


def test_scores_on_other_texts_are_marked() -> None:
    details = {"subsets": {}, "verify": "counts"}
    tasks = {DEV: make_task(99.0, details=details)}
    page = make_page(
        store_method("plain", {}, tasks=tasks), *four_methods({"prompteol": 66.0, "mean": 54.0})
    )
    rows = {row[0]: row for row in find_table(page, "method", "source", "STS-B dev")}
    assert rows["Plain prompt"][2] == "99.00 (counts)"
    assert "- (counts) marks scores" in page
    assert "**66.00**" in page
    assert "**99.00" not in page
    assert "there is no score for Plain prompt and PromptEOL + demonstration." in page
    assert "(counts) marks" not in make_page(store_result())


def test_the_best_row_is_placed_among_the_published_ones() -> None:
    page = make_page(
        store_method("plain", seven(60.0)),
        store_method("prompteol", seven(69.02)),
        store_method("demonstration", seven(99.0), adapter="a", adapter_sha256="0" * 64),
    )
    assert (
        "opt-125m, float32: the best row without training is PromptEOL, 69.02. Of the paper's OPT "
        "rows without a demonstration it is above OPT 125M (67.00), OPT 350M (65.03) and OPT 66B "
        "(68.84) and with a demonstration it is above OPT 125M (67.46)."
    ) in page
    worst = make_page(store_result(seven(1.0)))
    assert "without a demonstration it is above no published row and with" in worst
    assert "No row of the store has all seven tasks yet." in make_page(store_result({DEV: 60.0}))


def test_our_rows_come_before_the_published_ones() -> None:
    tuned = {"adapter": "a", "adapter_sha256": "0" * 64, "label": "prompteol"}
    page = make_page(
        store_method("plain", seven(60.0)), store_result(seven(80.0) | {DEV: 82.0}, **tuned)
    )
    untrained = find_table(page, "model", "method", "STS12")
    assert [row[0] for row in untrained][:4] == ["opt-125m, float32", *["OPT 125M"] * 2, "OPT 350M"]
    assert len(untrained) == 17
    assert untrained[2] == [
        *["OPT 125M", 'PromptEOL + demonstration "Smoking"', "62.22", "73.10", "61.84", "71.09"],
        *["72.08", "67.80", "64.10", "67.46", "paper"],
    ]
    fine_tuned = find_table(page, "model", "method", "STS-B dev")
    assert fine_tuned[0][1:4] == ["PromptEOL, fine-tuned", "82.00", "80.00"]
    assert [row[0] for row in fine_tuned[1:]] == [
        *[f"OPT {size}B" for size in ("1.3", "2.7", "6.7", "13")],
        *[f"LLaMA {size}B" for size in ("7", "13", "30")],
    ]


def test_gains_of_later_methods() -> None:
    page = make_page(
        *four_methods({"prompteol": 66.0, "pretended-cot": 60.0, "knowledge": 66.0}),
        store_method("mean", seven(50.0)),
        store_method("prompteol", seven(64.0)),
        store_method("echo", {DEV: 1.0} | seven(70.0)),
        store_method("metaeol", {"STS12": 99.0}),
    )
    rows = {row[0]: row[2:-1] for row in find_table(page, "method", "source", "task")}
    assert rows == {
        "Mean pooling": ["mean of seven", "50.00", "-14.00", "47.06", "-22.97", "yes"],
        "Pretended CoT": ["STS-B dev", "60.00", "-6.00", "76.86", "+6.83", "no"],
        "Knowledge Enhancement": ["STS-B dev", "66.00", "+0.00", "77.14", "+7.11", "no"],
        "Echo": ["mean of seven", "70.00", "+6.00", "66.05", "-3.98", "no"],
    }
    assert "\n1 of 4 gains have the sign that they have on LLaMA-2 7B." in page
    assert "PromptEOL has 64.00 (mean of seven) and 66.00 (STS-B dev); on LLaMA-2 7B" in page
