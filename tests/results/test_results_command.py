"""`python -m embedllm results` as a process: messages, exit codes, streams."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException
from listed_results import NEWEST_FIRST, compose_results, run_names
from stored_results import make_record
from tiny_runs import REPOSITORY, run_script, script_environment

from embedllm.config import ResultsConfig
from embedllm.entry import explain
from embedllm.errors import ConfigError
from embedllm.results import append_result


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


def _listing(results_folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in results_folder.rglob("*")}


def test_machine_formats_are_alone_on_stdout(results_folder: Path, tmp_path: Path) -> None:
    (results_folder / "cut.json").write_text("{")
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
    assert run_names(done.stdout) == NEWEST_FIRST
    assert done.stderr.startswith("left out 1 of the files in results:\nresults/cut.json: ")
    assert _listing(tmp_path) == before


def test_exit_codes(results_folder: Path, tmp_path: Path) -> None:
    missing = _run(f"paths.results_dir={tmp_path}/nothing", "format=csv")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith(f"error: there is no results store in {tmp_path}/nothing ")
    assert missing.stderr.count("\n") == 1

    nothing = _run(f"paths.results_dir={results_folder}", "filter.task=TREC")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr.startswith("none of the 4 results fits the filter")

    unknown = _run("filter.modle=a")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "did you mean model?" in unknown.stderr


def test_an_output_without_unicode_gets_a_table(results_folder: Path) -> None:
    append_result(results_folder, make_record(run_name="odd", label="Zürich"))
    done = _run(
        f"paths.results_dir={results_folder}", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "Z\\xfcrich" in done.stdout


@pytest.mark.parametrize("unbuffered", [None, "1"])
def test_a_reader_that_stops_early_and_a_full_disk(
    unbuffered: str | None, results_folder: Path
) -> None:
    for seed in range(100):
        append_result(results_folder, make_record(seed=seed))
    environment = script_environment(PYTHONUNBUFFERED=unbuffered)

    def run(after: str) -> tuple[int, str, str]:
        command = f"{sys.executable} -m embedllm results paths.results_dir={results_folder} {after}"
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


def test_help_and_the_list_import_no_torch(results_folder: Path) -> None:
    for arguments in (["--help"], [f"paths.results_dir={results_folder}"]):
        done = run_script("-X", "importtime", "-m", "embedllm", "results", *arguments)
        assert done.returncode == 0, done.stderr
        modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "embedllm.entry" in modules
        assert not modules & {"torch", "transformers", "pytorch_lightning", "peft"}
        assert "filter.adapter" in done.stdout or "tuned" in done.stdout or "Ours" in done.stdout
