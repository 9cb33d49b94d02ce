"""`python -m embedllm report`: what it writes, what it refuses, exit codes."""

from __future__ import annotations

import errno
import json
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from report_records import DEV, make_summary
from stored_results import make_record
from tiny_runs import REPOSITORY, compose_typed, run_script, script_environment

from embedllm.config import ReportConfig
from embedllm.entry import Invocation
from embedllm.errors import ConfigError, ResultError
from embedllm.report.command import run_report
from embedllm.results import append_result

STORE = "benchmarks/results/store"
PAGE = "docs/results.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store in `results`."""
    for second, score in enumerate((60.0, 61.0, 62.0)):
        finished = f"2026-01-01T00:00:0{second}+00:00"
        append_result(
            tmp_path / "results", make_record({DEV: score}, label=f"l{second}", finished=finished)
        )
    return tmp_path


def _report(*overrides: str) -> None:
    config = compose_typed("report", "html=null", *overrides)
    assert isinstance(config, ReportConfig)
    run_report(config, Invocation([], Path()))


def _page(folder: Path, *overrides: str) -> bytes:
    output = folder / "page.md"
    _report(f"paths.results_dir={folder}/results", f"output={output}", *overrides)
    return output.read_bytes()


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


# --- The page -----------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_command_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    _report(f"paths.results_dir={STORE}", f"output={tmp_path}/page.md")
    expected = (tmp_path / "page.md").read_text(encoding="utf-8")
    command = f"python -m embedllm report paths.results_dir={STORE}"
    assert command in expected
    assert Path(PAGE).read_text(encoding="utf-8") == expected, f"make it again: {command}"


def test_the_page_knows_no_machine_and_no_day(folder: Path) -> None:
    page = _page(folder).decode()
    assert "paths.results_dir=results" not in page  # the default
    assert str(folder) not in page


def test_equal_stores_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    searches = folder / "results" / "searches"
    searches.mkdir()
    for name in "cab":
        (searches / f"{name}.json").write_text(json.dumps(make_summary(dtype=name)))
    expected = _page(folder)
    for seed in range(3):
        other = tmp_path / f"copy{seed}"
        paths = list((folder / "results").rglob("*.json"))
        random.Random(seed).shuffle(paths)
        for path in paths:
            target = other / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        assert _page(other) == expected
    assert [expected.index(f"{name}: {name}\n".encode()) for name in "abc"]


def test_the_store_may_be_named_in_any_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "results").rename(folder / "mine")
    monkeypatch.chdir(folder)
    pages = []
    for store in ("mine", "./mine", f"{folder}/mine", "mine/../mine"):
        _report(f"paths.results_dir={store}", "output=a/b/page.md")
        pages.append(Path("a/b/page.md").read_bytes())
    assert len({*pages}) == 1
    assert b"report paths.results_dir=mine\n" in pages[0]


def test_an_old_page_is_replaced_and_nothing_else_written(folder: Path) -> None:
    (folder / "page.md").write_text("an older page")
    before = _files(folder)
    assert _page(folder).startswith(b"# Results\n")
    assert _files(folder) == before


def test_it_says_what_was_written(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        _page(folder)
    # One setting, so one row; two of the results are older.
    assert caplog.messages == [f"{folder}/page.md: 3 results in 1 rows"]


# --- Searches -----------------------------------------------------------------------------------


def test_searches_are_read_from_where_they_are(folder: Path) -> None:
    assert b"## Demonstration searches" not in _page(folder)
    searches = folder / "elsewhere"
    searches.mkdir()
    assert b"## Demonstration searches" not in _page(folder, f"searches={searches}")
    (searches / "one.json").write_text(json.dumps(make_summary()))
    (searches / ".two.json").write_text("{")
    (searches / "notes.txt").write_text("x")
    page = _page(folder, f"searches={searches}")
    assert page.count(b"- Winner: candidate 59") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", r"\$: \[\] is not of type 'object'"),
        (json.dumps(make_summary(baseline=None)), r"\$.baseline: None is not of type 'number'"),
        (json.dumps(make_summary(gain=float("nan"))), "NaN is no JSON"),
        (json.dumps(make_summary(rungs=[])), r"\$.rungs"),
        ("\udcff", "can't decode"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_damaged_searches(
    content: str, message: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    searches = folder / "results" / "searches"
    searches.mkdir()
    (searches / "bad.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ResultError, match=rf"bad\.json: .*{message}(?s:.*)strict=false"):
        _page(folder)
    assert not (folder / "page.md").exists()
    assert b"## Demonstration searches" not in _page(folder, "strict=false")
    assert "left out 1 of the files" in caplog.text


# --- Errors -------------------------------------------------------------------------------------


def test_damaged_results_are_left_out_on_demand_only(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _page(folder)
    (folder / "results" / "cut.json").write_text("{")
    (folder / "page.md").unlink()
    with pytest.raises(ResultError, match=r"cut\.json: (?s:.*)strict=false leaves such files out"):
        _page(folder)
    assert not (folder / "page.md").exists()
    assert _page(folder, "strict=false") == expected
    assert "cut.json" in caplog.text


def test_no_result_is_overwritten(folder: Path) -> None:
    [path, *_] = (folder / "results").glob("*.json")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"output={path} is in the results store"):
        _report(f"paths.results_dir={folder}/results", f"output={path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG])
def test_a_page_that_cannot_be_written(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "page.md").write_text("old")

    def fail(handle: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ResultError, match=rf"output={folder}/page.md cannot be written: .*no"):
        _page(folder)
    assert (folder / "page.md").read_text() == "old"
    assert not list(folder.glob(".page*"))


def _run(*arguments: str, max_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if max_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    return subprocess.run(
        [sys.executable, "-m", "embedllm", "report", "html=null", *arguments],
        cwd=REPOSITORY,
        env=script_environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["paths.results_dir={0}/nothing"], "there is no results store in {0}/nothing"),
        (["paths.results_dir={0}/empty"], "the results store {0}/empty is empty; "),
        (["output={0}/empty"], "output={0}/empty is a folder"),
        (["output={0}/file/page.md"], "output={0}/file/page.md cannot be written: "),
        (["searches={0}/file"], "searches={0}/file cannot be read (Not a directory)"),
        (["outptu=x"], "unknown key 'outptu'; did you mean output?"),
    ],
)
def test_errors_are_one_message(overrides: list[str], message: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "file").write_text("x")
    before = _files(folder)
    defaults = {"paths.results_dir": f"{folder}/results", "output": f"{folder}/page.md"}
    given = dict(override.format(folder).split("=", 1) for override in overrides)
    done = _run(*[f"{key}={value}" for key, value in {**defaults, **given}.items()])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message.format(folder)}")
    assert "Traceback" not in done.stderr
    assert _files(folder) == before


def test_a_full_disk(folder: Path) -> None:
    before = _files(folder)
    output = folder / "page.md"
    done = _run(f"paths.results_dir={folder}/results", f"output={output}", max_bytes=1000)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: output={output} cannot be written: ")
    assert done.stderr.count("\n") == 1
    assert _files(folder) == before


def test_the_command_makes_the_page_alone_and_without_torch(folder: Path) -> None:
    before = _files(folder)
    done = run_script(
        *["-X", "importtime", "-m", "embedllm", "report", "html=null"],
        *[f"paths.results_dir={folder}/results", f"output={folder}/new/page.md"],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder}/new/page.md\n")
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "embedllm.report.page" in modules
    assert not modules & {"torch", "transformers", "pytorch_lightning", "peft"}
    assert _files(folder) - before == {Path("new"), Path("new/page.md")}
    assert (folder / "new/page.md").read_text(encoding="utf-8").startswith("# Results\n")
