from __future__ import annotations

import io

import pytest
from rich.console import Console

from embedllm.evaluation.report import format_scores, print_scores, to_markdown
from embedllm.evaluation.scores import EvaluationResult, TaskScore
from embedllm.evaluation.sts import ScoreProtocol
from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS


def make_result(
    scores: dict[str, float], average: float, protocol: ScoreProtocol = "paper"
) -> EvaluationResult:
    tasks = tuple(
        TaskScore(name, score, "spearman", 2, protocol=protocol, details={"subsets": {"a": score}})
        for name, score in scores.items()
    )
    result = EvaluationResult(tasks=tasks, num_sentences=4, num_distinct=3)
    assert result.average == average
    return result


def make_mixed(sts: dict[str, float], transfer: dict[str, float]) -> EvaluationResult:
    """Transfer tasks first, so that the order of columns is the table's own."""
    tasks = [TaskScore(n, s, "accuracy", 2, probe="logistic") for n, s in transfer.items()]
    tasks += [TaskScore(n, s, "spearman", 2, protocol="paper") for n, s in sts.items()]
    return EvaluationResult(tuple(tasks), num_sentences=4, num_distinct=3)


def test_two_kinds_get_two_averages() -> None:
    before = make_mixed({"STS13": 50.0, "STS12": 60.0}, {"MRPC": 70.0, "MR": 75.5})
    after = make_mixed({"STS13": 51.0, "STS12": 62.0}, {"MRPC": 71.0, "MR": 75.0})
    rows = read_cells(to_markdown({"before": before, "after": after}))
    assert rows[0] == ["", "STS12", "STS13", "MR", "MRPC", "STS avg.", "Transfer avg."]
    assert rows[2] == ["before", "60.00", "50.00", "75.50", "70.00", "55.00", "72.75"]
    assert rows[4] == ["gain", "+2.00", "+1.00", "-0.50", "+1.00", "+1.50", "+0.25"]
    with pytest.raises(ValueError, match="no common average"):
        _ = before.average


def test_a_row_of_one_kind_has_one_average() -> None:
    transfer = make_mixed({}, {"MR": 75.5})
    assert read_cells(to_markdown({"t": transfer}))[0] == ["", "MR", "Avg."]
    rows = read_cells(to_markdown({"t": transfer, "s": make_mixed({"STS12": 60.0}, {})}))
    assert rows[2] == ["t", "-", "75.50", "-", "75.50"]
    assert rows[3] == ["s", "60.00", "-", "60.00", "-"]


def test_all_fourteen_columns_are_printed_whole() -> None:
    scores = dict.fromkeys(PAPER_TASKS, 71.25)
    result = make_mixed(scores, dict.fromkeys(TRANSFER_TASKS, 81.75))
    console = Console(file=io.StringIO(), width=80)
    print_scores(console, {"run": result})
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert (text.count("71.25"), text.count("81.75")) == (8, 8)
    assert "Transfer avg." in text
    assert "\u2026" not in text


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
    after = make_result({"STS12": 62.35, "sample-dev": 69.93}, 66.14)
    *_, gain = read_cells(to_markdown({"before": before, "after": after}))
    assert gain == ["gain", "+12.25", "-0.07", "+6.09"]


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
    after = make_result({"STS12": 2.0, "STS13": 2.0}, 2.0, "mteb")
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
