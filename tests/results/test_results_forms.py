"""`python -m embedllm results`: table, Markdown, CSV and JSON, also of nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from listed_results import ICL_PROMPT, NEWEST_FIRST, ListResults, run_names
from stored_results import make_record, make_task

from embedllm.errors import ResultError
from embedllm.results import append_result, read_results


def test_json_has_the_whole_records(results_folder: Path, list_results: ListResults) -> None:
    records = json.loads(list_results("format=json"))
    stored = {str(result.path): result.record for result in read_results(results_folder)}
    assert {record.pop("path"): record for record in records} == stored


def test_csv_has_the_stored_values(results_folder: Path, list_results: ListResults) -> None:
    name = 'a "quoted", odd\nlabel'
    append_result(results_folder, make_record(label=name, finished="2026-02-01T00:00:00+00:00"))
    rows = list(csv.DictReader(io.StringIO(list_results("format=csv"))))
    assert [row["run_name"] for row in rows] == ["first", *NEWEST_FIRST]
    assert rows[0]["label"] == name
    by_name = {row["run_name"]: row for row in rows}
    probes = by_name["probes"]
    assert (probes["sts"], probes["transfer"], probes["tasks"]) == ("", "85.25", "MR")
    assert (probes["protocol"], probes["probe"], probes["label"]) == ("", "senteval", "")
    icl = by_name["icl"]
    assert icl["prompt"] == ICL_PROMPT["template"]
    assert (icl["num_demonstrations"], icl["dtype"], icl["adapter"]) == ("1", "bfloat16", "")
    assert by_name["base"]["tasks"] == "STS12;STSBenchmark;STSBenchmark-dev"
    assert Path(by_name["base"]["path"]).is_file()


def test_csv_with_a_column_per_task(list_results: ListResults) -> None:
    rows = list(csv.DictReader(io.StringIO(list_results("format=csv", "columns=tasks"))))
    # The seven of the paper first, in its order, whatever the order in the files.
    assert list(rows[0])[-4:-2] == ["STS12", "STSBenchmark"]
    assert {*list(rows[0])[-2:]} == {"STSBenchmark-dev", "MR"}
    tuned, *_, base = rows
    assert (tuned["STS12"], tuned["STSBenchmark"], tuned["MR"]) == ("75.0", "80.0", "")
    assert base["STSBenchmark-dev"] == "72.0"
    assert "tasks" not in base


def _cells(markdown: str) -> list[list[str]]:
    rows = [line.strip("|").split(" | ") for line in markdown.splitlines()]
    return [[cell.strip() for cell in row] for row in rows]


def test_markdown(list_results: ListResults) -> None:
    header, rule, tuned, icl, probes, base = _cells(list_results("format=markdown"))
    assert header[:6] == ["finished (UTC)", "run", "model", "adapter", "prompt", "dtype"]
    assert header[6:] == ["STS", "transfer", "tasks"]
    assert rule == ["---"] * 6 + ["---:"] * 2 + ["---"]
    assert tuned[:4] == ["2026-01-03 09:00", "Ours", "smollm2-135m", "nli"]
    assert tuned[6:] == ["77.50", "-", "STSBenchmark, STS12"]
    assert icl[0] == "2026-01-03 00:30"
    assert icl[2:4] == ["opt-125m", "-"]
    assert icl[4] == 'This sentence : "{sen... +1 demo +1 more'
    assert probes[3] == "llama-lora"
    assert probes[6:] == ["-", "85.25 (senteval)", "MR"]
    assert base[8] == "3 tasks"


def test_markdown_with_a_column_per_task(list_results: ListResults) -> None:
    header, rule, tuned, *_ = _cells(
        list_results("format=markdown", "columns=tasks", "filter.task=STS12")
    )
    assert header[6:] == ["STS12", "STSBenchmark", "STSBenchmark-dev", "STS", "transfer"]
    assert rule[6:] == ["---:"] * 5
    assert tuned[6:] == ["75.00", "80.00", "-", "77.50", "-"]


def test_another_protocol_is_marked(results_folder: Path, list_results: ListResults) -> None:
    tasks = {"STS12": make_task(70.0, protocol="mteb")}
    append_result(results_folder, make_record(run_name="other", tasks=tasks))
    text = list_results("format=markdown", "filter.run_name=other")
    assert _cells(text)[2][6] == "70.00 (mteb)"


@pytest.mark.parametrize("format_name", ["table", "markdown"])
def test_texts_cannot_break_a_row(
    format_name: str, results_folder: Path, list_results: ListResults
) -> None:
    label = "a\nb [bold]c[/] |\x1b[2J\u202e\udcff"
    append_result(results_folder, make_record(run_name="odd", label=label))
    text = list_results(f"format={format_name}", "filter.run_name=odd")
    [line] = [line for line in text.splitlines() if "[bold]c[/]" in line]
    assert "a b [bold]c[/]" in line
    assert ("\\|" in line) == (format_name == "markdown")
    assert not {"\x1b", "\u202e", "\udcff"} & {*text}


def test_the_table_is_not_cut_where_there_is_no_terminal(
    results_folder: Path, list_results: ListResults
) -> None:
    label = "long " * 50
    append_result(results_folder, make_record(run_name="odd", label=label))
    text = list_results(*["filter.run_name=odd"])
    assert label.strip() in text
    assert len(list_results("filter.run_name=base").splitlines()) < 6


# --- Nothing to show ----------------------------------------------------------------------------

NOTHING = {"table": "", "json": "[]\n"}


@pytest.mark.parametrize("format_name", ["table", "json", "csv", "markdown"])
def test_nothing_fits(
    format_name: str, list_results: ListResults, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        text = list_results(f"format={format_name}", "filter.run_name=zzz")
    assert caplog.messages[-1].startswith("none of the 4 results fits the filter; tasks: STS12, ")
    if format_name in NOTHING:
        assert text == NOTHING[format_name]
    else:
        assert "finished" in text.splitlines()[0]
        assert "2026" not in text


def test_an_empty_store(
    list_results: ListResults, results_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in results_folder.iterdir():
        path.unlink()
    with caplog.at_level("INFO"):
        assert list_results("sort_by=STS12") == ""
    assert caplog.messages == [f"the results store {results_folder} is empty"]


def test_damaged_files(
    list_results: ListResults, results_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (results_folder / "cut.json").write_text("{")
    assert run_names(list_results("format=json")) == NEWEST_FIRST
    assert "cut.json" in caplog.messages[0]
    with pytest.raises(ResultError, match=r"cut\.json"):
        list_results("strict=true")
