"""The page: its tables, what it states, and that no text of a record changes its shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_records import (
    DEV,
    MODEL,
    PROMPT,
    demonstration,
    make_summary,
    seven,
    store_method,
    store_result,
    store_transfer,
)
from stored_results import make_task

from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS
from embedllm.report.markdown import code, escape, join_words, table
from embedllm.report.methods import METHODS
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


def _page(*results: StoredResult, searches: tuple[StoredSearch, ...] = ()) -> str:
    return build_page(build_rows(results), searches, load_published(), store="results")


def _four(scores: dict[str, float], **changes: Any) -> list[StoredResult]:
    return [store_method(label, {DEV: score}, **changes) for label, score in scores.items()]


def _visible(text: str) -> str:
    """The text as a reader sees it: on one line, without what cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "-"


def _text(token: Token) -> str:
    """The text that a Markdown reader shows for an inline token."""
    return "".join(child.content for child in token.children or ())


def _tables(page: str) -> Iterator[list[list[str]]]:
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
            rows[-1].append(_text(following))
        elif token.type == "table_close":
            yield rows


def _table(page: str, *headings: str) -> list[list[str]]:
    """Returns the first table whose heading row begins like this, without that row."""
    return next(rows[1:] for rows in _tables(page) if rows[0][: len(headings)] == [*headings])


def _shape(page: str) -> tuple[list[str], Counter[str]]:
    """Returns what the page is made of: its blocks in order, and what is within them."""
    blocks, inline = [], Counter[str]()
    for token in PARSER.parse(page):
        blocks.append(f"{token.type} {token.tag}")
        inline.update(c.type for c in token.children or () if not c.type.startswith("text"))
    return blocks, inline


# --- Markdown -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(ANY_TEXT)
@example("_a_ *b* __c__ x_y_z ~~d~~")
@example("&amp; &#60; <b> </b> <!-- & < >")
@example("[a](b) ![c](d) `e` \\`f| \\| #")
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    for page in (f"see {escape(text)} here", f"## See {escape(text)} here"):
        [inline] = [token for token in PARSER.parse(page) if token.type == "inline"]
        assert _text(inline).lower() == f"see {_visible(text)} here".lower()
        assert {child.type for child in inline.children or ()} <= {"text", "text_special"}


@settings(deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), max_size=4))
def test_no_text_breaks_a_table(rows: list[tuple[str, str, str]]) -> None:
    header = ["a", "b", "c"]
    page = table(header, [[escape(cell) for cell in row] for row in rows])
    [found] = _tables(page)
    assert found == [header, *[[_visible(cell) for cell in row] for row in rows]]


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


# --- The whole page -----------------------------------------------------------------------------


def _odd_results(text: str) -> list[StoredResult]:
    """Returns one result of every kind, with a text wherever a record may have one."""
    # None of these is one that the page knows, whatever the text.
    changes: dict[str, Any] = {
        "label": f"{text}z",
        "run_name": f"{text}z",
        "model": {**MODEL, "name": f"x{text}", "revision": f"x{text}", "gguf_package": f"x{text}"},
        "model_choice": text,
        "dtype": f"x{text}",
        "git_revision": text,
        "versions": {"torch": text, "transformers": text},
        "hardware": {"machine": text, "gpu": f"x{text}", "threads": text},
        "command": [f"{text}.py", text],
    }
    details = {"subsets": {}}
    return [
        store_result(prompt=demonstration(f"x{text}"), **changes),
        store_result(
            adapter=f"x{text}/adapter",
            adapter_sha256="0" * 64,
            **{**changes, "label": None, "command": []},
        ),
        store_result(
            tasks={f"x{text}": make_task(50.0, protocol="mteb", details=details)}, **changes
        ),
        store_transfer({f"x{text}": 60.0}, probe=f"x{text}", **changes),
    ]


@settings(deadline=None, max_examples=30)
@given(ANY_TEXT)
@example("a | b `c\n\n# d")
def test_no_text_of_a_record_changes_the_shape_of_the_page(text: str) -> None:
    summary = make_summary(
        winner={"candidate": 1, "sentence": text, "word": text, "score": 70.0},
        command=f"python {text}",
        candidates=f"x{text}",
        task=f"x{text}",
        model={"name": f"y{text}"},
        dtype=f"x{text}",
        git_revision=f"x{text}",
        finished=text,
    )
    found = [
        _page(*_odd_results(t), searches=(StoredSearch(Path("one.json"), s),))
        for t, s in ((text, summary), ("plain", make_summary(git_revision="abc")))
    ]
    assert _shape(found[0]) == _shape(found[1])
    # It can be written, whatever JSON held.
    found[0].encode("utf-8")
    names = [row[0] for rows in _tables(found[0]) for row in rows if rows[0][0] == "method"]
    assert any(name.startswith(_visible(f"{text}z")) for name in names)


def test_the_page_of_all_kinds_is_whole() -> None:
    page = _page(*_odd_results("plain"), *_four(FOUR))
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert headings == [
        "Without training",
        "Beside the paper, without training",
        "Beside the paper, fine-tuned",
        "Later methods",
        "Transfer tasks",
        "Runs",
        "What is published, and what is absent",
    ]
    assert "\n\n\n" not in page
    assert page.endswith(".\n")


def test_the_page_says_how_it_is_made() -> None:
    assert "```bash\npython -m embedllm report\n```\n\nfrom 1 results" in _page(store_result())
    report = build_rows([store_result()])
    page = build_page(report, [], load_published(), store="a b/store")
    assert "\npython -m embedllm report 'paths.results_dir=a b/store'\n" in page


def test_equal_stores_make_equal_pages() -> None:
    results = [*_four(FOUR), *_odd_results("plain")]
    assert _page(*results) == _page(*[StoredResult(r.path, r.record) for r in results])


# --- Without training ---------------------------------------------------------------------------


def test_the_best_of_each_column_is_bold() -> None:
    page = _page(
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
    page = _page(*_four(FOUR), store_method("plain", seven(70.0)))
    rows = {row[0]: row for row in _table(page, "method", "source", "STS-B dev")}
    assert rows["Plain prompt"][-1] == "2, 5"
    assert rows["Plain prompt"][2:-1] == ["55.00", *["70.00"] * 8]
    assert rows["PromptEOL"][2:] == ["66.00", *["-"] * 8, "3"]
    runs = re.findall(r"^(\d+)\. (.*)$", page, re.MULTILINE)
    assert [number for number, _ in runs] == ["1", "2", "3", "4", "5"]


def test_another_protocol_has_its_own_table() -> None:
    tasks = {task: make_task(50.0, protocol="mteb") for task in seven(0)}
    page = _page(store_result(seven(60.0)), store_result(tasks=tasks))
    usual, other = [rows[1:] for rows in _tables(page) if rows[0][:2] == ["method", "source"]][:2]
    assert [row[-2] for row in usual] == ["60.00"]
    assert [row[-2] for row in other] == ["50.00"]
    compared = _table(page, "model", "method", "STS12")
    assert [row[-2] for row in compared if row[-1] != "paper"] == ["60.00"]


def test_tasks_beyond_the_seven_are_shown() -> None:
    page = _page(store_result({"sample-test": 42.0, "a_b": 1.0}))
    headings = next(rows[0] for rows in _tables(page) if rows[0][0] == "method")
    assert headings[-4:] == ["mean", "a_b", "sample-test", "runs"]


def test_scores_on_other_texts_are_marked() -> None:
    details = {"subsets": {}, "verify": "counts"}
    tasks = {DEV: make_task(99.0, details=details)}
    page = _page(store_method("plain", {}, tasks=tasks), *_four({"prompteol": 66.0, "mean": 54.0}))
    rows = {row[0]: row for row in _table(page, "method", "source", "STS-B dev")}
    assert rows["Plain prompt"][2] == "99.00 (counts)"
    assert "- (counts) marks scores" in page
    assert "**66.00**" in page
    assert "**99.00" not in page
    assert "there is no score for Plain prompt and PromptEOL + demonstration." in page
    assert "(counts) marks" not in _page(store_result())


# --- The paper's order --------------------------------------------------------------------------

ORDER = r"Mean pooling < Plain prompt < PromptEOL < PromptEOL + demonstration"


def _statement(page: str, where: str = "STS-B dev") -> str:
    return next(line for line in page.splitlines() if f"on {where}" in line and ORDER in line)


def test_the_order_holds() -> None:
    assert _statement(_page(*_four(FOUR))) == (
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
    assert _statement(_page(*_four(FOUR | changes))) == (
        f"The paper's order ({ORDER}) does not hold on STS-B dev: {faults}"
    )


@pytest.mark.parametrize("order", permutations(FOUR.values()))
def test_the_order_holds_for_one_order_alone(order: tuple[float, ...]) -> None:
    statement = _statement(_page(*_four(dict(zip(FOUR, order, strict=True)))))
    assert (") holds on" in statement) == (list(order) == sorted(order))


@pytest.mark.parametrize("missing", FOUR)
def test_the_order_is_not_stated_without_a_row(missing: str) -> None:
    scores = {label: score for label, score in FOUR.items() if label != missing}
    # Read from another layer it is no row of the method; scored elsewhere it has no score here.
    other = store_method(missing, {DEV: 99.0}, model={**MODEL, "layer": 3})
    statement = _statement(_page(*_four(scores), store_method(missing, {"STS12": 1.0}), other))
    assert statement.endswith(
        f"on STS-B dev cannot be said: there is no score for {METHODS[missing].title}."
    )


def test_the_best_demonstration_counts_and_is_named() -> None:
    worse = store_result({DEV: 60.0}, label="demonstration", prompt=demonstration("Music"))
    statement = _statement(_page(*_four(FOUR), worse))
    assert ") holds on STS-B dev" in statement
    assert statement.endswith(
        "For PromptEOL + demonstration this is the best of 2 rows: "
        'PromptEOL + demonstration "Sports" (73.00).'
    )


def test_the_order_of_the_means_is_stated_when_all_four_have_one() -> None:
    results = [store_method(label, seven(score)) for label, score in FOUR.items()]
    assert ") holds on the mean of the seven" in _statement(
        _page(*results), "the mean of the seven"
    )
    assert "on the mean of the seven" not in _page(*results[1:])


def test_models_and_types_are_stated_apart() -> None:
    page = _page(*_four(FOUR), *_four({**FOUR, "plain": 1.0}, dtype="bfloat16"))
    statements = [line for line in page.splitlines() if f"({ORDER})" in line]
    assert [") holds" in line for line in statements] == [False, True]


# --- Beside the published numbers ---------------------------------------------------------------


def test_the_best_row_is_placed_among_the_published_ones() -> None:
    page = _page(
        store_method("plain", seven(60.0)),
        store_method("prompteol", seven(69.02)),
        store_method("demonstration", seven(99.0), adapter="a", adapter_sha256="0" * 64),
    )
    assert (
        "opt-125m, float32: the best row without training is PromptEOL, 69.02. Of the paper's OPT "
        "rows without a demonstration it is above OPT 125M (67.00), OPT 350M (65.03) and OPT 66B "
        "(68.84) and with a demonstration it is above OPT 125M (67.46)."
    ) in page
    worst = _page(store_result(seven(1.0)))
    assert "without a demonstration it is above no published row and with" in worst
    assert "No row of the store has all seven tasks yet." in _page(store_result({DEV: 60.0}))


def test_our_rows_come_before_the_published_ones() -> None:
    tuned = {"adapter": "a", "adapter_sha256": "0" * 64, "label": "prompteol"}
    page = _page(
        store_method("plain", seven(60.0)), store_result(seven(80.0) | {DEV: 82.0}, **tuned)
    )
    untrained = _table(page, "model", "method", "STS12")
    assert [row[0] for row in untrained][:4] == ["opt-125m, float32", *["OPT 125M"] * 2, "OPT 350M"]
    assert len(untrained) == 17
    assert untrained[2] == [
        *["OPT 125M", 'PromptEOL + demonstration "Smoking"', "62.22", "73.10", "61.84", "71.09"],
        *["72.08", "67.80", "64.10", "67.46", "paper"],
    ]
    fine_tuned = _table(page, "model", "method", "STS-B dev")
    assert fine_tuned[0][1:4] == ["PromptEOL, fine-tuned", "82.00", "80.00"]
    assert [row[0] for row in fine_tuned[1:]] == [
        *[f"OPT {size}B" for size in ("1.3", "2.7", "6.7", "13")],
        *[f"LLaMA {size}B" for size in ("7", "13", "30")],
    ]


def test_gains_of_later_methods() -> None:
    page = _page(
        *_four({"prompteol": 66.0, "pretended-cot": 60.0, "knowledge": 66.0}),
        store_method("mean", seven(50.0)),
        store_method("prompteol", seven(64.0)),
        store_method("echo", {DEV: 1.0} | seven(70.0)),
        store_method("metaeol", {"STS12": 99.0}),
    )
    rows = {row[0]: row[2:-1] for row in _table(page, "method", "source", "task")}
    assert rows == {
        "Mean pooling": ["mean of seven", "50.00", "-14.00", "47.06", "-22.97", "yes"],
        "Pretended CoT": ["STS-B dev", "60.00", "-6.00", "76.86", "+6.83", "no"],
        "Knowledge Enhancement": ["STS-B dev", "66.00", "+0.00", "77.14", "+7.11", "no"],
        "Echo": ["mean of seven", "70.00", "+6.00", "66.05", "-3.98", "no"],
    }
    assert "\n1 of 4 gains have the sign that they have on LLaMA-2 7B." in page
    assert "PromptEOL has 64.00 (mean of seven) and 66.00 (STS-B dev); on LLaMA-2 7B" in page


# --- Transfer tasks, searches, runs -------------------------------------------------------------


def test_transfer_table() -> None:
    scores = dict.fromkeys(TRANSFER_TASKS, 80.0)
    page = _page(
        *[store_transfer(scores | {"MR": 80.0 + s}, seed=s, label="prompteol") for s in (1, 2, 4)],
        store_transfer({"CR": 90.0}, label="plain", prompt={**PROMPT, "template": "x"}),
        store_transfer({"MR": 70.0}, probe="senteval"),
    )
    plain, prompteol = _table(page, "model", "method", "source")
    assert plain[1:2] + plain[3:] == [
        *["Plain prompt", "-", "90.00", *["-"] * 6, "1", "2.0", "4"],
    ]
    assert prompteol[3:] == [
        *["82.33 \u00b1 1.53", *["80.00 \u00b1 0.00"] * 6, "80.33 \u00b1 0.22", "3", "14.0"],
        "1, 2, 3",
    ]
    headings = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert headings[-3:-1] == ["Classifier: logistic, 10 folds", "Classifier: senteval, 10 folds"]
    published = _table(page, "model", "MR")
    assert published[3][0::8] == ["PromptEOL OPT 6.7B, no demonstration", "91.34"]


def test_searches() -> None:
    search = StoredSearch(Path("store/searches/first.json"), make_summary())
    page = _page(store_result(model_choice="opt-125m"), searches=(search,))
    assert "### opt-125m, float32: first\n" in page
    for part in (
        "- Candidates: 300 (paper), chosen by STS-B dev.",
        '- Winner: candidate 59, "A jockey." with the word "Horses": 73.14. Without a '
        "demonstration: 66.83. Gain: +6.31.",
        "50.12 to 75.50, quartiles 60.25, 64.50 and 68.75, mean 64.25, standard deviation 3.50. "
        "47.0% of them are above the prompt without a demonstration (65.50).",
        "Rounds (candidates on pairs): 300 on 100. Cost: 80000 scored pairs, 17.8% of the 450000",
        "took 5901 seconds, all processes together; the last call took 3000.",
        "Replayed with 1000 orders of the pairs, halving over 100, 1500 pairs that keeps 90 finds "
        "the best candidate of all in 81.2% of them, one within 0.2 points of it in 95.4%. Its "
        "choice is 0.034 points below the best on average and 0.81 at worst, at 18.0% of the cost",
    ):
        assert part in page
    alone = StoredSearch(search.path, make_summary(agreement=None, model={"name": "a/other"}))
    page = _page(store_result(), searches=(alone,))
    assert "### other, float32: first" in page
    assert "Replayed" not in page


def test_runs_say_where_they_come_from() -> None:
    page = _page(
        store_result(
            command=["evaluate.py", "prompt.template='a `b` | c\n'"],
            git_revision="0123456789abcdef+changes",
            versions={"torch": "2.13.0", "transformers": "5.23.0"},
            hardware={"gpu": "H200", "machine": "x86_64", "system": "Linux", "threads": 1},
            seed=7,
            seconds=12.34,
            finished="2026-01-01T01:30:00+02:00",
        ),
        store_result(dtype="bfloat16", command=[], adapter="runs/nli/adapter"),
    )
    [first, second] = re.findall(r"^\d+\. (.*)$", page, re.MULTILINE)
    assert first.startswith("``python evaluate.py 'prompt.template='\"'\"'a `b` | c\\n'\"'\"''``; ")
    assert first.endswith(
        "opt-125m, float32; seed 7; 12.3 s (encoding 1.2 s); H200, x86_64, Linux, 1 thread; git "
        "0123456789ab with changes; torch 2.13.0; transformers 5.23.0; 2025-12-31 23:30:00; "
        f"{first[first.rindex('`', 0, -1) :]}"
    )
    assert second.startswith("called from Python; opt-125m, bfloat16; adapter nli; seed 42; ")
    assert "git unknown; torch 2.13.0; transformers ?; " in second


def test_unused_results_are_named() -> None:
    old, new = store_result(), store_result()
    page = _page(old, new)
    assert "1 result is not used, because newer scores of the same setting" in page
    assert page.count(old.path.name) == page.count(new.path.name) == 1
    assert "from 2 results" in page
    assert "not used, because" not in _page(new)
