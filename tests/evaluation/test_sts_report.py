from __future__ import annotations

import io

import pytest
from rich.console import Console

from embedllm.evaluation.report import format_scores, to_markdown
from embedllm.evaluation.sts import ScoreProtocol, STSResult, TaskScore
from embedllm.evaluation.tasks import PAPER_TASKS


def make_result(
    scores: dict[str, float], average: float, protocol: ScoreProtocol = "paper"
) -> STSResult:
    tasks = tuple(
        TaskScore(name=name, score=score, num_pairs=2, subsets={"all": score}, protocol=protocol)
        for name, score in scores.items()
    )
    return STSResult(tasks=tasks, average=average, num_sentences=4, num_distinct=3)


def read_cells(markdown: str) -> list[list[str]]:
    rows = [line.strip("|").split("|") for line in markdown.splitlines()]
    return [[cell.strip() for cell in row] for row in rows]


def test_columns_are_in_the_order_of_the_paper() -> None:
    scores = {name: 10.0 + i for i, name in enumerate(reversed(PAPER_TASKS))}
    header, rule, row = read_cells(to_markdown({"mine": make_result(scores, 13.0)}))
    headings = ["STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R", "Avg."]
    assert header == ["", *headings]
    assert rule == ["---", *["---:"] * 8]
    expected = ["16.00", "15.00", "14.00", "13.00", "12.00", "11.00", "10.00", "13.00"]
    assert row == ["mine", *expected]


def test_before_and_after_get_a_gain_row() -> None:
    before = make_result({"STS12": 50.1, "sample-dev": 70.0}, 60.05)
    after = make_result({"STS12": 62.35, "sample-dev": 69.9}, 66.13)
    *_, gain = read_cells(to_markdown({"before": before, "after": after}))
    assert gain == ["gain", "+12.25", "-0.10", "+6.08"]


def test_no_change_is_a_positive_zero() -> None:
    result = make_result({"STS12": 50.1}, 50.1)
    *_, gain = read_cells(to_markdown({"after": result, "before": result}))
    assert gain == ["gain", "+0.00", "+0.00"]


@pytest.mark.parametrize("names", [["before"], ["before", "later"], ["before", "after", "third"]])
def test_other_rows_get_no_gain(names: list[str]) -> None:
    result = make_result({"STS12": 50.1}, 50.1)
    assert [row[0] for row in read_cells(to_markdown(dict.fromkeys(names, result)))[2:]] == names


def test_missing_tasks_are_dashes_and_leave_no_gain() -> None:
    before = make_result({"STSBenchmark-dev": 1.0, "STS12": 3.0}, 2.0)
    after = make_result({"STS12": 4.0, "STS13": 6.0}, 5.0)
    rows = read_cells(to_markdown({"before": before, "after": after}))
    assert rows[0] == ["", "STS12", "STS13", "STS-B dev", "Avg."]
    assert rows[2] == ["before", "3.00", "-", "1.00", "2.00"]
    assert rows[3] == ["after", "4.00", "6.00", "-", "5.00"]
    assert rows[4] == ["gain", "+1.00", "-", "-", "-"]


def test_two_protocols_are_not_compared() -> None:
    before = make_result({"STS12": 1.0, "STS13": 1.0}, 1.0, "paper")
    after = make_result({"STS12": 2.0, "STS13": 2.0}, 2.0, "mean")
    *_, gain = read_cells(to_markdown({"before": before, "after": after}))
    assert gain == ["gain", "-", "-", "-"]


def test_the_terminal_table_has_the_same_cells() -> None:
    rows = {
        "before": make_result({"STS12": 50.0, "STSBenchmark": 60.0}, 55.0),
        "after": make_result({"STS12": 51.5, "STSBenchmark": 61.0}, 56.25),
    }
    table = format_scores(rows)
    cells = [list(column.cells) for column in table.columns]
    markdown = read_cells(to_markdown(rows))
    assert [str(column.header) for column in table.columns] == markdown[0]
    assert [list(row) for row in zip(*cells, strict=True)] == markdown[2:]


def test_names_with_markup_survive() -> None:
    rows = {"run[bold]|a": make_result({"STS12": 50.0}, 50.0)}
    console = Console(file=io.StringIO(), width=80)
    console.print(format_scores(rows))
    assert isinstance(console.file, io.StringIO)
    assert "run[bold]|a" in console.file.getvalue()
    assert "| run[bold]\\|a | 50.00 | 50.00 |" in to_markdown(rows)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one result"):
        format_scores({})
    with pytest.raises(ValueError, match="at least one result"):
        to_markdown({})
