"""The whole page: its parts, and that no text of a record changes its shape."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from report_pages import (
    ANY_TEXT,
    FOUR,
    PARSER,
    find_table,
    four_methods,
    iterate_tables,
    make_page,
    visible,
)
from report_records import MODEL, PROMPT, demonstration, make_summary, store_result, store_transfer
from stored_results import make_task

from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS
from embedllm.report.page import build_page
from embedllm.report.published import load_published
from embedllm.report.rows import build_rows
from embedllm.report.searches import StoredSearch
from embedllm.results import StoredResult


def _shape(page: str) -> tuple[list[str], Counter[str]]:
    """Returns what the page is made of: its blocks in order, and what is within them."""
    blocks, inline = [], Counter[str]()
    for token in PARSER.parse(page):
        blocks.append(f"{token.type} {token.tag}")
        inline.update(c.type for c in token.children or () if not c.type.startswith("text"))
    return blocks, inline


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
        make_page(*_odd_results(t), searches=(StoredSearch(Path("one.json"), s),))
        for t, s in ((text, summary), ("plain", make_summary(git_revision="abc")))
    ]
    assert _shape(found[0]) == _shape(found[1])
    # It can be written, whatever JSON held.
    found[0].encode("utf-8")
    names = [row[0] for rows in iterate_tables(found[0]) for row in rows if rows[0][0] == "method"]
    assert any(name.startswith(visible(f"{text}z")) for name in names)


def test_the_page_of_all_kinds_is_whole() -> None:
    page = make_page(*_odd_results("plain"), *four_methods(FOUR))
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
    assert "```bash\npython -m embedllm report\n```\n\nfrom 1 results" in make_page(store_result())
    report = build_rows([store_result()])
    page = build_page(report, [], load_published(), store="a b/store")
    assert "\npython -m embedllm report 'paths.results_dir=a b/store'\n" in page


def test_equal_stores_make_equal_pages() -> None:
    results = [*four_methods(FOUR), *_odd_results("plain")]
    assert make_page(*results) == make_page(*[StoredResult(r.path, r.record) for r in results])


def test_transfer_table() -> None:
    scores = dict.fromkeys(TRANSFER_TASKS, 80.0)
    page = make_page(
        *[store_transfer(scores | {"MR": 80.0 + s}, seed=s, label="prompteol") for s in (1, 2, 4)],
        store_transfer({"CR": 90.0}, label="plain", prompt={**PROMPT, "template": "x"}),
        store_transfer({"MR": 70.0}, probe="senteval"),
    )
    plain, prompteol = find_table(page, "model", "method", "source")
    assert plain[1:2] + plain[3:] == [
        *["Plain prompt", "-", "90.00", *["-"] * 6, "1", "2.0", "4"],
    ]
    assert prompteol[3:] == [
        *["82.33 \u00b1 1.53", *["80.00 \u00b1 0.00"] * 6, "80.33 \u00b1 0.22", "3", "14.0"],
        "1, 2, 3",
    ]
    headings = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert headings[-3:-1] == ["Classifier: logistic, 10 folds", "Classifier: senteval, 10 folds"]
    published = find_table(page, "model", "MR")
    assert published[3][0::8] == ["PromptEOL OPT 6.7B, no demonstration", "91.34"]


def test_searches() -> None:
    search = StoredSearch(Path("store/searches/first.json"), make_summary())
    page = make_page(store_result(model_choice="opt-125m"), searches=(search,))
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
    page = make_page(store_result(), searches=(alone,))
    assert "### other, float32: first" in page
    assert "Replayed" not in page


def test_runs_say_where_they_come_from() -> None:
    page = make_page(
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
    page = make_page(old, new)
    assert "1 result is not used, because newer scores of the same setting" in page
    assert page.count(old.path.name) == page.count(new.path.name) == 1
    assert "from 2 results" in page
    assert "not used, because" not in make_page(new)
