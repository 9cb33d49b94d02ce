"""`python -m embedllm results`: filters, order, forms, exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from stored_results import make_record, make_task
from tiny_runs import REPOSITORY, run_script, script_environment

from embedllm.config import ResultFilterConfig, ResultsConfig
from embedllm.entry import CONF_DIR, Invocation, explain, register, to_typed
from embedllm.errors import ConfigError, ResultError
from embedllm.evaluation.results_command import run_results
from embedllm.results import append_result, read_results

ICL_PROMPT = {
    "template": 'This sentence : "{sentence}" means in one word:"',
    "more_templates": ["Essence of {sentence}:"],
    "demonstrations": [{"sentence": "A jockey rides a horse.", "word": "Equestrian"}],
}
RECORDS = {
    "base": make_record(
        {"STS12": 60.0, "STSBenchmark": 70.0, "STSBenchmark-dev": 72.0},
        sts=65.0,
        model_choice="smollm2-135m",
        finished="2026-01-01T00:00:00+00:00",
    ),
    "tuned": make_record(
        {"STSBenchmark": 80.0, "STS12": 75.0},
        sts=77.5,
        label="Ours",
        model_choice="smollm2-135m",
        adapter="outputs/nli/adapter",
        finished="2026-01-03T09:00:00+00:00",
    ),
    "icl": make_record(
        {"STSBenchmark": 75.0},
        sts=75.0,
        transfer=81.5,
        prompt=ICL_PROMPT,
        dtype="bfloat16",
        finished="2026-01-02T23:30:00-01:00",
    ),
    "probes": make_record(
        sts=None,
        transfer=85.25,
        tasks={"MR": make_task(85.25, metric="accuracy", protocol=None, probe="senteval")},
        adapter="shared/adapters/llama-lora",
        finished="2026-01-02T12:00:00+00:00",
    ),
}
NEWEST_FIRST = ["tuned", "icl", "probes", "base"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, record in RECORDS.items():
        append_result(tmp_path / "results", {**record, "run_name": name})
    return tmp_path / "results"


def compose_results(*overrides: str) -> ResultsConfig:
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = to_typed(compose("results", overrides=list(overrides)))
    assert isinstance(config, ResultsConfig)
    return config


Call = Callable[..., str]


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command here and returns its stdout."""

    def run(*overrides: str) -> str:
        config = compose_results(f"paths.results_dir={folder}", *overrides)
        capsys.readouterr()
        run_results(config, Invocation([], Path()))
        return capsys.readouterr().out

    return run


def _names(text: str) -> list[str]:
    return [record["run_name"] for record in json.loads(text)]


# --- Filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], NEWEST_FIRST),
        (["filter.run_name=bas"], ["base"]),
        (["filter.label=our"], ["tuned"]),
        (["filter.model=SmolLM2"], ["tuned", "base"]),
        (["filter.model=opt-125m"], NEWEST_FIRST),
        (["filter.task=STSBenchmark"], ["tuned", "icl", "base"]),
        (["filter.task=stsbenchmark-dev"], ["base"]),
        (["filter.task=STS"], []),
        (["filter.adapter=none"], ["icl", "base"]),
        (["filter.adapter=any"], ["tuned", "probes"]),
        (["filter.adapter=LLaMA"], ["probes"]),
        (["filter.prompt=one word"], ["icl"]),
        (["filter.prompt=equestrian"], ["icl"]),
        (["filter.prompt=essence"], ["icl"]),
        (["filter.since=2026-01-02"], ["tuned", "icl", "probes"]),
        (["filter.since=2026-01-03"], ["tuned", "icl"]),
        (["filter.since=2026-01-03T00:30"], ["tuned", "icl"]),
        (["filter.since=2026-01-03T00:30:01"], ["tuned"]),
        (["filter.since=2026-01-03T00:30-01:00"], ["tuned"]),
        (["filter.min_average=75"], ["tuned", "icl", "probes"]),
        (["filter.min_average=76"], ["tuned", "probes"]),
        (["filter.min_average=76", "filter.adapter=any", "filter.task=STS12"], ["tuned"]),
        (["filter.model=smollm2", "filter.label=none"], []),
    ],
)
def test_filters(overrides: list[str], expected: list[str], call: Call) -> None:
    assert _names(call("format=json", *overrides)) == expected


def test_every_filter_is_tried_above() -> None:
    marks = test_filters.pytestmark
    cases = [case for mark in marks for case in mark.args[1]]
    used = {o.partition("=")[0] for overrides, _ in cases for o in overrides}
    assert used == {f"filter.{name}" for name in ResultFilterConfig.__dataclass_fields__}


def test_prompts_of_any_shape_are_searched(folder: Path, call: Call) -> None:
    prompt = {"template": "x {sentence}", "more_templates": None, "demonstrations": [3, {"a": 1}]}
    append_result(folder, make_record(run_name="odd", prompt=prompt))
    assert _names(call("format=json", "filter.prompt=one word")) == ["icl"]
    assert _names(call("format=json", "filter.prompt='x {'")) == ["odd"]


# --- Order --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sort_by=finished"], NEWEST_FIRST),
        (["sort_by=sts"], ["tuned", "icl", "base", "probes"]),
        (["sort_by=transfer"], ["probes", "icl", "tuned", "base"]),
        (["sort_by=STS12"], ["tuned", "base", "icl", "probes"]),
        (["sort_by=STSBenchmark"], ["tuned", "icl", "base", "probes"]),
        (["sort_by=MR"], ["probes", "tuned", "icl", "base"]),
        (["limit=2"], ["tuned", "icl"]),
        (["sort_by=transfer", "limit=1"], ["probes"]),
        (["limit=100"], NEWEST_FIRST),
    ],
)
def test_order_and_limit(overrides: list[str], expected: list[str], call: Call) -> None:
    assert _names(call("format=json", *overrides)) == expected


def test_scores_below_zero_come_before_missing_ones(folder: Path, call: Call) -> None:
    append_result(folder, make_record({"STS12": -3.0}, run_name="worst", sts=-3.0))
    assert _names(call("format=json", "sort_by=sts")) == ["tuned", "icl", "base", "worst", "probes"]


def test_an_order_by_an_unknown_task_is_refused(call: Call) -> None:
    allowed = "finished, sts, transfer, STS12, STSBenchmark, .*MR"
    with pytest.raises(ConfigError, match=rf"sort_by='STS21' is not known; allowed: {allowed}"):
        call("sort_by=STS21")


# --- Forms --------------------------------------------------------------------------------------


def test_json_has_the_whole_records(folder: Path, call: Call) -> None:
    records = json.loads(call("format=json"))
    stored = {str(result.path): result.record for result in read_results(folder)}
    assert {record.pop("path"): record for record in records} == stored


def test_csv_has_the_stored_values(folder: Path, call: Call) -> None:
    name = 'a "quoted", odd\nlabel'
    append_result(folder, make_record(label=name, finished="2026-02-01T00:00:00+00:00"))
    rows = list(csv.DictReader(io.StringIO(call("format=csv"))))
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


def test_csv_with_a_column_per_task(call: Call) -> None:
    rows = list(csv.DictReader(io.StringIO(call("format=csv", "columns=tasks"))))
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


def test_markdown(call: Call) -> None:
    header, rule, tuned, icl, probes, base = _cells(call("format=markdown"))
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


def test_markdown_with_a_column_per_task(call: Call) -> None:
    header, rule, tuned, *_ = _cells(call("format=markdown", "columns=tasks", "filter.task=STS12"))
    assert header[6:] == ["STS12", "STSBenchmark", "STSBenchmark-dev", "STS", "transfer"]
    assert rule[6:] == ["---:"] * 5
    assert tuned[6:] == ["75.00", "80.00", "-", "77.50", "-"]


def test_another_protocol_is_marked(folder: Path, call: Call) -> None:
    tasks = {"STS12": make_task(70.0, protocol="mteb")}
    append_result(folder, make_record(run_name="other", tasks=tasks))
    text = call("format=markdown", "filter.run_name=other")
    assert _cells(text)[2][6] == "70.00 (mteb)"


@pytest.mark.parametrize("format_name", ["table", "markdown"])
def test_texts_cannot_break_a_row(format_name: str, folder: Path, call: Call) -> None:
    label = "a\nb [bold]c[/] |\x1b[2J\u202e\udcff"
    append_result(folder, make_record(run_name="odd", label=label))
    text = call(f"format={format_name}", "filter.run_name=odd")
    [line] = [line for line in text.splitlines() if "[bold]c[/]" in line]
    assert "a b [bold]c[/]" in line
    assert ("\\|" in line) == (format_name == "markdown")
    assert not {"\x1b", "\u202e", "\udcff"} & {*text}


def test_the_table_is_not_cut_where_there_is_no_terminal(folder: Path, call: Call) -> None:
    label = "long " * 50
    append_result(folder, make_record(run_name="odd", label=label))
    text = call(*["filter.run_name=odd"])
    assert label.strip() in text
    assert len(call("filter.run_name=base").splitlines()) < 6


# --- Nothing to show ----------------------------------------------------------------------------

NOTHING = {"table": "", "json": "[]\n"}


@pytest.mark.parametrize("format_name", ["table", "json", "csv", "markdown"])
def test_nothing_fits(format_name: str, call: Call, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        text = call(f"format={format_name}", "filter.run_name=zzz")
    assert caplog.messages[-1].startswith("none of the 4 results fits the filter; tasks: STS12, ")
    if format_name in NOTHING:
        assert text == NOTHING[format_name]
    else:
        assert "finished" in text.splitlines()[0]
        assert "2026" not in text


def test_an_empty_store(call: Call, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in folder.iterdir():
        path.unlink()
    with caplog.at_level("INFO"):
        assert call("sort_by=STS12") == ""
    assert caplog.messages == [f"the results store {folder} is empty"]


def test_damaged_files(call: Call, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cut.json").write_text("{")
    assert _names(call("format=json")) == NEWEST_FIRST
    assert "cut.json" in caplog.messages[0]
    with pytest.raises(ResultError, match=r"cut\.json"):
        call("strict=true")


# --- The command line ---------------------------------------------------------------------------


def _run(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    return run_script(
        "-m", "embedllm", "results", *arguments, environment=script_environment(**environment)
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("filter.modle=a", "unknown key 'filter.modle'; did you mean model?"),
        ("+x=1", "unknown key 'x'\nallowed at the top level: filter, sort_by, limit, format"),
        ("format=xml", "format='xml' is not known; allowed: table, json, csv, markdown"),
        ("columns=all", "columns='all' is not known; allowed: averages, tasks"),
        ("limit=0", "limit=0 is out of range; it must be at least 1"),
        ("limit=few", "limit"),
        ("filter.since=soon", "filter.since='soon' is no date; it must look like 2026-01-31"),
        ("filter.min_average=nan", "filter.min_average=nan is out of range"),
    ],
)
def test_wrong_values_are_refused(override: str, message: str) -> None:
    with pytest.raises((ConfigError, HydraException)) as caught:
        compose_results(override)
    assert message in explain(caught.value, ResultsConfig)


def _listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_machine_formats_are_alone_on_stdout(folder: Path, tmp_path: Path) -> None:
    (folder / "cut.json").write_text("{")
    before = _listing(tmp_path)
    # Started elsewhere: the command leaves nothing in its working folder.
    done = subprocess.run(
        [sys.executable, "-m", "embedllm", "results", "paths.results_dir=results", "format=json"],
        cwd=tmp_path,
        env=script_environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _names(done.stdout) == NEWEST_FIRST
    assert done.stderr.startswith("left out 1 of the files in results:\nresults/cut.json: ")
    assert _listing(tmp_path) == before


def test_exit_codes(folder: Path, tmp_path: Path) -> None:
    missing = _run(f"paths.results_dir={tmp_path}/nothing", "format=csv")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith(f"error: there is no results store in {tmp_path}/nothing ")
    assert missing.stderr.count("\n") == 1

    nothing = _run(f"paths.results_dir={folder}", "filter.task=TREC")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr.startswith("none of the 4 results fits the filter")

    unknown = _run("filter.modle=a")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "did you mean model?" in unknown.stderr


def test_an_output_without_unicode_gets_a_table(folder: Path) -> None:
    append_result(folder, make_record(run_name="odd", label="Zürich"))
    done = _run(f"paths.results_dir={folder}", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "Z\\xfcrich" in done.stdout


@pytest.mark.parametrize("unbuffered", [None, "1"])
def test_a_reader_that_stops_early_and_a_full_disk(unbuffered: str | None, folder: Path) -> None:
    for seed in range(100):
        append_result(folder, make_record(seed=seed))
    environment = script_environment(PYTHONUNBUFFERED=unbuffered)

    def run(after: str) -> tuple[int, str, str]:
        command = f"{sys.executable} -m embedllm results paths.results_dir={folder} {after}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert run("format=json | head -1") == (0, "[\n", "")
    # Much text fails while it is written, little when the buffer is flushed.
    for options in ("format=json", "format=json limit=1", "limit=1"):
        code, _, message = run(f"{options} > /dev/full")
        assert code == 2
        assert message.startswith("error: the list cannot be written to stdout: ")
        assert message.count("\n") == 1


def test_help_and_the_list_import_no_torch(folder: Path) -> None:
    for arguments in (["--help"], [f"paths.results_dir={folder}"]):
        done = run_script("-X", "importtime", "-m", "embedllm", "results", *arguments)
        assert done.returncode == 0, done.stderr
        modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "embedllm.entry" in modules
        assert not modules & {"torch", "transformers", "pytorch_lightning", "peft"}
        assert "filter.adapter" in done.stdout or "tuned" in done.stdout or "Ours" in done.stdout
