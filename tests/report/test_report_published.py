"""The published numbers: the collected ones, and checked when they are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from embedllm.report.methods import METHODS
from embedllm.report.published import load_published, parse_published

FILE = Path(__file__).parents[2] / "embedllm" / "report" / "published.json"
REFERENCE_TABLES = {
    "opt_without_demonstration": "sts_prompteol_no_icl",
    "opt_with_demonstration": "sts_prompteol_icl",
    "fine_tuned": "sts_prompteol_cse",
    "later_methods": "later_work_sts_llama2_7b",
    "transfer_baselines": "transfer_baselines",
    "transfer_prompteol": "transfer_prompteol",
}


@pytest.fixture
def reference() -> dict[str, Any]:
    """The numbers as they were collected, with every source."""
    folder = os.environ.get("EMBEDLLM_DATA_DIR")
    if not folder:
        pytest.skip("EMBEDLLM_DATA_DIR is not set: no collected numbers beside it")
    path = Path(folder).parent / "reference" / "paper_results.json"
    if not path.is_file():
        pytest.skip(f"there are no collected numbers in {path}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_published_numbers_are_the_collected_ones(reference: dict[str, Any]) -> None:
    published = load_published()
    assert published.tables.keys() == REFERENCE_TABLES.keys()
    titles = {"STSb": "STSBenchmark", "SICK-R": "SICKRelatedness"}
    num_values = 0
    for name, table_name in REFERENCE_TABLES.items():
        collected = reference["tables"][table_name]["rows"]
        for position, row in enumerate(published.tables[name].rows):
            # The transfer rows have shorter names here.
            same = [r for r in collected if r["name"] == row.name] or [collected[position]]
            [source] = same
            scores = {} if source["scores"] == "absent" else source["scores"]
            assert row.scores == {titles.get(task, task): v for task, v in scores.items()}
            assert row.mean == source["avg"], row.name
            num_values += 1 + len(row.scores)
    assert num_values == 8 + 8 * 8 + 7 * 8 + 7 * 8 + 3 * 8 + 4


def test_published_words_and_sources_are_the_collected_ones(reference: dict[str, Any]) -> None:
    published = load_published()
    words = {r["name"]: r["word"] for r in reference["tables"]["icl_best_demonstrations"]["rows"]}
    rows = published.tables["opt_with_demonstration"].rows
    assert {row.name: row.word for row in rows} == words
    assert published.paper_arxiv == reference["paper"]["arxiv"]
    for name, source in published.sources.items():
        assert source.url == reference["sources"][name]["url"]
    for name, found in published.tables.items():
        collected = reference["tables"][REFERENCE_TABLES[name]]["source"]
        assert set(collected) <= set(found.sources)


def test_methods_of_later_papers_are_ours() -> None:
    methods = [row.method for row in load_published().tables["later_methods"].rows]
    assert set(methods) == METHODS.keys() - {"plain", "demonstration"}
    assert len(methods) == 7


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tables", "fine_tuned", "rows", 0, "mean"), 84.9, "mean 84.9, its scores 84.78"),
        (("tables", "fine_tuned", "rows", 0, "scores", "MR"), 80.0, "has other tasks"),
        (("tables", "fine_tuned", "rows", 0, "mean"), float("nan"), "out of range"),
        (("tables", "fine_tuned", "rows"), [], "has no rows"),
        (("tables", "fine_tuned", "sources"), ["hearsay"], "hearsay"),
        (("tables", "more"), {"rows": [], "sources": [], "note": ""}, "published tables are"),
    ],
)
def test_a_damaged_file_is_noticed(path: tuple[Any, ...], value: Any, message: str) -> None:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    parse_published(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        parse_published(content)
