"""The HTML page of made-up results: foreign texts, what is missing, curves, rankings, libraries."""

from __future__ import annotations

import json
import re
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from chromium import needs_chromium, open_page
from documents import documented
from html_pages import make_content, make_html
from report_pages import make_page
from report_records import (
    DEV,
    PROMPT,
    demonstration,
    make_summary,
    seven,
    store_method,
    store_result,
    store_transfer,
)
from stored_results import make_task
from tiny_runs import REPOSITORY, compose_raw, restored_logging

from embedllm import cli, program
from embedllm.errors import ConfigError, ResultError
from embedllm.report.html.demonstrations import demonstrations_section
from embedllm.report.html.geometry import geometry_section
from embedllm.report.html.libraries import check_libraries
from embedllm.report.html.prompts import prompts_section
from embedllm.report.html.scaling import scaling_section
from embedllm.report.learning_curves import LearningCurve
from embedllm.report.measurements import Measurements, read_measurements
from embedllm.report.rankings import Candidate
from embedllm.report.searches import StoredSearch, read_searches
from embedllm.results import StoredResult, append_result

# Would do harm as a tag, as an attribute, as the end of the script, as a formula and as Markdown.
EVIL = (
    "</script><script>window.harm=1</script>",
    "<img src=x onerror=window.harm=1>",
    '" onmouseover="window.harm=1',
    "{{ 7 * 7 }} $\\frac{$ [x](javascript:window.harm=1)",
    "\x00\x1b\udcff\u202e",
)


def _evil_results(text: str) -> list[StoredResult]:
    """Returns results with a text in all places where a user may write one."""
    model = {"name": text, "pooling": "last", "layer": -1}
    prompt = {**demonstration(text, text), "template": f"{text}{{sentence}}"}
    details = {"subsets": {}, "alignment": 0.2, "uniformity": -1.0}
    tasks = {task: make_task(60.0) for task in seven(1.0)}
    tasks |= {DEV: make_task(61.0, details=details)}
    common: dict[str, Any] = {"model": model, "tasks": tasks, "command": ["evaluate.py", text]}
    return [
        store_result(**common, label=text, run_name=text),
        store_result(**common, label="prompteol", prompt=prompt, model_choice=text),
        store_result(**common, label="demonstration", prompt=prompt, adapter=f"{text}/adapter"),
        store_transfer({"MR": 80.0}, probe=text, model=model),
    ]


def _evil_search(text: str) -> StoredSearch:
    summary = make_summary(model={"name": text}, command=text, dtype=text)
    candidates = (Candidate(1, text, text, text, {100: 60.0, 200: 61.0}),)
    return StoredSearch(Path(f"{text.replace('/', '')}.json"), summary, candidates)


@needs_chromium
def test_foreign_texts_are_texts(tmp_path: Path) -> None:
    content = make_html(
        *(result for text in EVIL for result in _evil_results(text)),
        searches=tuple(map(_evil_search, EVIL)),
        curves=tuple(LearningCurve(text, {1: 2.0}, {1: 0.5}, {text: {1: 50.0}}) for text in EVIL),
        sizes={f"{text}, float32": 10**8 for text in EVIL},
    )
    page = tmp_path / "page.html"
    page.write_text(content, encoding="utf-8")
    with open_page(page.as_uri()) as view:
        view.wait_for_selector("html[data-ready]")
        for summary in view.locator("summary").all():
            summary.click()
        assert view.evaluate("window.harm") is None
        assert view.locator("img, [onmouseover], [onerror], a[href^=javascript]").count() == 0
        assert view.locator("script").count() == 2
        shown = view.locator("#runs table.data").text_content() or ""
        assert [text for text in EVIL if text.isprintable() and text not in shown] == []


def test_what_is_missing_is_one_line_with_a_command() -> None:
    page = make_html(store_transfer({"MR": 80.0}))
    missing = [line for line in page.splitlines() if 'class="missing"' in line]
    commands = [line.partition("<code>")[2].partition("</code>")[0] for line in missing]
    for command in commands:
        _check_command(command)
    assert commands == [
        "python evaluate.py evaluation=sts",
        "python evaluate.py method=plain evaluation=sts-dev",
        "python -m embedllm search model=smollm2-135m",
        "python evaluate.py method=prompteol evaluation=sts",
        "python train.py run_name=first",
        "python evaluate.py method=prompteol evaluation=sts",
        "python benchmarks/encode.py",
        "python benchmarks/plan_accuracy.py",
    ]
    # The paper's curve is there all the same.
    assert page.count("<figure>") == 1


def _check_command(command: str) -> None:
    """Fails when a command names a file, a group's option or a key that does not exist."""
    words = command.split()
    if words[1].startswith("benchmarks/"):
        assert (REPOSITORY / words[1]).is_file()
        return
    name, overrides = (words[3], words[4:]) if words[1] == "-m" else (words[1][:-3], words[2:])
    compose_raw(name, *overrides)


def test_commands_are_those_of_the_installed_program(monkeypatch: pytest.MonkeyPatch) -> None:
    result = store_result({DEV: 60.0}, command=["evaluate.py", "run_name=mine"])
    search = StoredSearch(Path("s.json"), make_summary(), ())
    in_checkout = re.compile(r"python ((train|evaluate)\.py|-m embedllm)")
    pages = [make_page(result, searches=(search,)), make_html(result, searches=(search,))]
    assert all(in_checkout.search(page) for page in pages)
    monkeypatch.setattr(program, "checkout", lambda: None)
    monkeypatch.setattr(program, "_console_script", lambda: Path("/usr/bin/embedllm"))
    for page in (make_page(result, searches=(search,)), make_html(result, searches=(search,))):
        assert not in_checkout.search(page)
        assert "embedllm evaluate run_name=mine" in page


def test_equal_content_gives_equal_pages() -> None:
    result = store_method("prompteol", seven(60.0) | {DEV: 61.0})
    assert make_html(result) == make_html(result)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, 'This sentence : "{sentence}" means in one word:"'),
        (
            demonstration("Sports"),
            'This sentence : "A man rides." means in one word:"Sports".'
            'This sentence : "{sentence}" means in one word:"',
        ),
        ({"template": "{prepended}A: {sentence}"}, "{prepended}A: {sentence}"),
        (
            {"template": "A {sentence} ", "more_templates": ["B {sentence}"]},
            "A {sentence}\nB {sentence}",
        ),
        ({"template": "no slot"}, "no slot"),
        ({"demonstrations": ["odd"], "a_new_key": 1}, PROMPT["template"]),
    ],
)
def test_prompts_are_shown_as_they_are_read(changes: dict[str, Any], text: str) -> None:
    record = {**PROMPT, **changes}
    results = [store_method(label, {DEV: 60.0}) for label in ("mean", "plain")]
    results.append(store_result({DEV: 61.0}, label="mine", prompt=record))
    [picture] = prompts_section(make_content(*results)).pictures
    [shown] = [row[2].text for row in picture.table.rows if row[0].text.startswith("mine")]
    assert shown == text


def test_points_of_the_scaling_curve_are_the_best_of_a_model() -> None:
    results = [
        store_method("prompteol", seven(60.0)),
        store_method("prompteol", seven(61.0), dtype="bfloat16"),
        store_method("demonstration", seven(65.0)),
        # Not all seven tasks, and of unknown size: neither is a point.
        store_method("prompteol", {"STS12": 90.0}, model={"name": "a/b", "pooling": "last"}),
        store_method("prompteol", seven(50.0), model={"name": "c/d", "pooling": "last"}),
    ]
    sizes = {"opt-125m, float32": 125_000_000, "opt-125m, bfloat16": 125_000_000}
    [picture] = scaling_section(make_content(*results, sizes=sizes)).pictures
    ours = [[cell.text for cell in row] for row in picture.table.rows[:2]]
    assert ours == [
        ["opt-125m, bfloat16", "PromptEOL", "125", "61.00"],
        ["opt-125m, float32", 'PromptEOL + demonstration "Sports"', "125", "65.00"],
    ]
    assert picture.table.rows[2][0].text == "OPT (published)"


def test_geometry_is_that_of_the_test_split_where_there_is_one() -> None:
    def task(alignment: float) -> dict[str, Any]:
        return make_task(details={"subsets": {}, "alignment": alignment, "uniformity": -1.5})

    both = store_result(tasks={"STSBenchmark": task(0.1), DEV: task(0.2)})
    dev = store_result(tasks={DEV: task(0.3)}, dtype="bfloat16")
    old = store_result({"STSBenchmark": 60.0}, dtype="float16")
    section = geometry_section(make_content(both, dev, old))
    rows = [[cell.text for cell in row] for row in section.pictures[0].table.rows]
    assert [row[2:5] for row in rows] == [
        ["STS-B dev", "0.300", "-1.500"],
        ["STS-B", "0.100", "-1.500"],
    ]
    assert geometry_section(make_content(old)).missing


# --- Rankings -----------------------------------------------------------------------------------

_HEADER = "rank,candidate,sentence,word,source,rung,pairs,score,score_100,score_250\n"


def _search_folder(folder: Path, ranking: str) -> Path:
    (folder / "one.json").write_text(json.dumps(make_summary()))
    (folder / "one.csv").write_text(_HEADER + ranking)
    return folder


def test_a_ranking_beside_a_summary_is_read(tmp_path: Path) -> None:
    text = '1,7,"A, b.",Word,STS-B,2,250,71.5,70.25,71.5\n2,3,C.,Other,,1,100,60.0,60.0,\n'
    [search] = read_searches(_search_folder(tmp_path, text), strict=True)
    assert search.candidates == (
        Candidate(7, "A, b.", "Word", "STS-B", {100: 70.25, 250: 71.5}),
        Candidate(3, "C.", "Other", "", {100: 60.0}),
    )
    section = demonstrations_section(make_content(store_result(), searches=(search,)))
    assert [cell.text for cell in section.pictures[0].table.rows[1]] == [
        *("Other", "C.", "opt-125m, float32"),
        *("60.00", "100", "60.00"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "1,x,S.,W,,1,100,60.0,60.0,\n",
        "1,1,S.,W,,1,100,60.0,,\n",
        "1,1,S.,W,,1,100,nan,nan,\n",
        "1,1,S.,,,1,100,60.0,60.0,\n",
        '1,1,"S.,W\n',
    ],
)
def test_a_damaged_ranking_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"one\.json: (?s:.*)strict=false leaves"):
        read_searches(_search_folder(tmp_path, text), strict=True)
    assert read_searches(tmp_path, strict=False) == []


# --- Measurements -------------------------------------------------------------------------------


def test_damaged_measurements(tmp_path: Path) -> None:
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "other.json").write_text('{"benchmark": "another"}')
    assert read_measurements(tmp_path, strict=True) == Measurements()
    for content in ("{", "[]", '{"benchmark": "encode"}'):
        (tmp_path / "speed" / "bad.json").write_text(content)
        with pytest.raises(ResultError, match=r"bad\.json: .*\nmeasurements=.*strict=false"):
            read_measurements(tmp_path, strict=True)
        assert read_measurements(tmp_path, strict=False) == Measurements()


# --- The command --------------------------------------------------------------------------------


def _run(folder: Path, *overrides: str) -> None:
    with restored_logging():
        cli.main(
            [
                "report",
                f"paths.results_dir={folder}/results",
                f"paths.output_dir={folder}/outputs",
                f"output={folder}/page.md",
                f"measurements={folder}/none",
                *overrides,
            ]
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    append_result(tmp_path / "results", store_result({DEV: 60.0}).record)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "pages"),
    [
        ("python -m embedllm report", {"docs/results.md", "outputs/report.html"}),
        ("python -m embedllm report html=null", {"docs/results.md"}),
        (
            "python -m embedllm report html=site/index.html output=site/results.md",
            {"site/index.html", "site/results.md"},
        ),
        ("python -m embedllm report strict=false", {"docs/results.md", "outputs/report.html"}),
    ],
)
def test_documented_commands(
    command: str, pages: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = documented(command, page="docs/report.md")
    if "strict=false" in words:
        (folder / "results" / "cut.json").write_text("{")
    monkeypatch.chdir(folder)
    with restored_logging():
        cli.main(words[3:])
    found = {path.as_posix() for path in Path().rglob("*.*") if path.suffix in (".md", ".html")}
    assert found == pages


def test_the_command_writes_both_pages(folder: Path) -> None:
    _run(folder)
    page = (folder / "outputs" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "python -m embedllm report runs=outputs" not in page
    assert str(folder) not in page
    assert (folder / "page.md").read_text(encoding="utf-8").startswith("# Results\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("html={0}/page.md", "output and html are both {0}/page.md; html=null makes no HTML page"),
        ("html={0}/results/x.json", "html={0}/results/x.json is in the results store"),
        ("html={0}", "html={0} is a folder; it must be the file of the page"),
    ],
)
def test_errors_write_nothing(
    override: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(folder, override.format(folder))
    assert caught.value.code == 2
    assert message.format(folder) in capsys.readouterr().err
    assert not (folder / "page.md").exists()


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_libraries()
    find = util.find_spec
    monkeypatch.setattr(
        "embedllm.report.html.libraries.find_spec",
        lambda name: None if name == "itables" else find(name),
    )
    with pytest.raises(ConfigError, match=r"needs itables; pip install 'embedllm\[report\]'"):
        check_libraries()
