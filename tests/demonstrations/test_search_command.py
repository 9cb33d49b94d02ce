"""`python -m embedllm search`: killed, resumed, shared, damaged, and what it leaves behind."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from tiny_runs import (
    REPOSITORY,
    read_json,
    restored_logging,
    run_script,
    script_environment,
)

from embedllm import cli
from embedllm.config import DemonstrationConfig, PromptConfig, SearchConfig
from embedllm.demonstrations import search_command
from embedllm.demonstrations.search_command import draw_candidates, fit_schedule, run_search
from embedllm.demonstrations.unit_store import UnitStore, prompt_key
from embedllm.distributed import Rank, current_rank
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.tasks import load_task
from embedllm.invocation import Invocation
from embedllm.models.loading import load_encoder

NUM_CANDIDATES = 24
NUM_PAIRS = 200
RUNGS, KEEP = [20, 60, NUM_PAIRS], [10, 4]
SCHEDULE = ["search.rungs=[20,60,200]", "search.keep=[10,4]"]
# Units of a whole search: the candidates of each round, and the prompt without one.
NUM_UNITS = NUM_CANDIDATES + sum(KEEP) + 1
START_SECONDS = 120.0
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")


@pytest.fixture(autouse=True)
def _restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HYDRA_FULL_ERROR", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", *SLURM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("EMBEDLLM_DATA_DIR", raising=False)
    with restored_logging():
        yield


@pytest.fixture(scope="session")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("candidates") / "candidates.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "word", "source"])
        for number in range(NUM_CANDIDATES):
            animal = ("dog", "cat", "horse", "bird")[number % 4]
            sentence = f'A {animal} eats {number} \u00e4pfel: it\'s "fine" \\ ${{x}}.'
            writer.writerow([sentence, f"Word{number}", f"list {number % 3}"])
    return path


def arguments(candidates: Path, output_dir: Path, *overrides: str) -> list[str]:
    """Returns the command line of a small search; later overrides win."""
    values = dict(
        override.split("=", 1)
        for override in [
            "model=tiny",
            "evaluation=sample",
            *SCHEDULE,
            "save_as=null",
            "run_name=run",
            f"candidates={candidates}",
            f"paths.output_dir={output_dir}",
            f"paths.results_dir={output_dir}/results",
            *overrides,
        ]
    )
    return ["search", *(f"{key}={value}" for key, value in values.items())]


def search(candidates: Path, output_dir: Path, *overrides: str) -> Path:
    """Searches in this process and returns the run's folder."""
    cli.main(arguments(candidates, output_dir, *overrides))
    return output_dir / "run"


@pytest.fixture(scope="session")
def finished(candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search run through; tests copy what they change."""
    folder = tmp_path_factory.mktemp("finished")
    with restored_logging():
        return search(candidates, folder)


def start_search(candidates: Path, output_dir: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts a search in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "embedllm", *arguments(candidates, output_dir)],
        cwd=REPOSITORY,
        env=script_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def unit_times(folder: Path) -> dict[str, int]:
    """Returns when each unit was written."""
    found = {}
    for path in folder.glob("units-*/*/*.npy"):
        found[f"{path.parent.name}/{path.name}"] = path.stat().st_mtime_ns
    return found


def notes(folder: Path) -> list[list[str]]:
    """Returns one row for each unit that some process computed."""
    rows = []
    for path in sorted(folder.glob("units-*/log/*.csv")):
        rows += [row[:3] for row in csv.reader(path.read_text().splitlines()[1:])]
    return rows


def ranking(folder: Path) -> list[dict[str, str]]:
    with (folder / "ranking.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    """Returns when the condition holds; fails when the process ends before."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)


# --- Killed and shared --------------------------------------------------------------------------


def test_killed_and_resumed_equals_run_through(
    candidates: Path, finished: Path, tmp_path: Path
) -> None:
    process = start_search(candidates, tmp_path)
    wait_for(lambda: len(unit_times(tmp_path / "run")) >= 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = unit_times(tmp_path / "run")
    assert 5 <= len(before) < NUM_UNITS
    folder = search(candidates, tmp_path)
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()
    after = unit_times(folder)
    assert {name: after[name] for name in before} == before
    assert after.keys() == unit_times(finished).keys()
    assert len(after) == NUM_UNITS


def test_a_finished_search_computes_nothing_and_loads_nothing(
    candidates: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "ranking.csv").unlink()
    monkeypatch.delattr(search_command, "load_encoder")
    folder = search(candidates, tmp_path)
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()
    assert len(notes(folder)) == NUM_UNITS


def test_two_processes_compute_every_unit_once_and_agree(
    candidates: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    # Everything is claimed until both have started, so that neither can do all of the work.
    source = next(finished.glob("units-*"))
    store = UnitStore(folder, read_json(source / "identity.json"), rank=9)
    with ExitStack() as claims:
        for key in {name.split("/")[0] for name in unit_times(finished)}:
            assert claims.enter_context(store.claimed(key))
        processes = [
            start_search(candidates, tmp_path, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)
        ]
        for rank, process in enumerate(processes):
            path = store.folder / "log" / f"rank-{rank}.csv"
            wait_for(path.exists, process)
    texts = [process.communicate(timeout=START_SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    rows = notes(folder)
    assert len({tuple(row) for row in rows}) == len(rows) == NUM_UNITS
    logs = [(store.folder / "log" / f"rank-{rank}.csv").read_text() for rank in (0, 1)]
    # The units of a tiny model take milliseconds, so the shares may be anything but empty.
    assert all(len(log.splitlines()) > 1 for log in logs)
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()
    # Only the main process reports.
    assert "results:" in texts[0]
    assert "results:" not in texts[1]


def test_the_unit_of_a_killed_process_is_taken_over(
    candidates: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    [units] = (tmp_path / "run").glob("units-*")
    victim = ranking(finished)[0]
    config = compose_search(candidates, tmp_path)
    prompt = _prompt_of(config, victim)
    unit = units / prompt_key(prompt) / "60-200.npy"
    unit.unlink()
    claim = (
        "import sys, time; from pathlib import Path\n"
        "from embedllm.demonstrations.unit_store import UnitStore\n"
        "store = UnitStore(Path(sys.argv[1]), __import__('json').loads(sys.argv[2]))\n"
        "with store.claimed(sys.argv[3]) as mine: print(mine, flush=True); time.sleep(600)"
    )
    identity = (units / "identity.json").read_text()
    holder = subprocess.Popen(
        [sys.executable, "-c", claim, str(tmp_path / "run"), identity, prompt_key(prompt)],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    killed_at: list[float] = []

    def kill() -> None:
        killed_at.append(time.monotonic())
        holder.kill()

    timer = threading.Timer(1.0, kill)
    timer.start()
    try:
        folder = search(candidates, tmp_path)
    finally:
        timer.join()
        holder.communicate()
    assert killed_at
    assert time.monotonic() > killed_at[0]
    assert unit.exists()
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()


def test_a_damaged_unit_is_computed_again_and_no_other(
    candidates: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    damaged = sorted((tmp_path / "run").glob("units-*/*/20-60.npy"))[0]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-8])
    before = unit_times(tmp_path / "run")
    folder = search(candidates, tmp_path)
    assert damaged.read_bytes() == content
    after = unit_times(folder)
    changed = [name for name in after if after[name] != before[name]]
    assert changed == [f"{damaged.parent.name}/{damaged.name}"]
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()


def test_a_longer_list_in_another_order_loses_nothing(
    candidates: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with candidates.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    path = tmp_path / "more.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, ["A new one.", "New", "mine"], *reversed(rows)])
    before = unit_times(tmp_path / "run")
    after = unit_times(search(path, tmp_path))
    assert {name: after[name] for name in before} == before
    # All old ones were found again, under other numbers; further rounds may differ by a tie.
    added = {name for name in after.keys() - before.keys() if name.endswith("/0-20.npy")}
    assert len(added) == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Rank(3, 4, 1)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Rank(5, 8, 1)),
        # torchrun inside a SLURM job: the task is torchrun, the ranks are its own.
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Rank(1, 2)),
    ],
)
def test_the_launcher_says_which_process_this_is(
    environment: dict[str, str], expected: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert current_rank() == expected


def test_processes_begin_at_different_places() -> None:
    starts = [Rank(rank, 4).rotate(list(range(10)))[0] for rank in range(4)]
    assert len(set(starts)) == 4
    assert sorted(Rank(3, 4).rotate(list(range(10)))) == list(range(10))
    assert Rank(3, 4).rotate([]) == []


# --- Exhaustive ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exhaustive(candidates: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exhaustive search that went on from the other one's units."""
    folder = tmp_path_factory.mktemp("exhaustive")
    shutil.copytree(finished, folder / "run")
    with restored_logging():
        return search(candidates, folder, "search.rungs=[200]", "search.keep=[]")


def test_both_searches_share_their_work(exhaustive: Path, finished: Path) -> None:
    before, after = unit_times(finished), unit_times(exhaustive)
    assert before.keys() <= after.keys()
    covered = [int(stop) - int(start) for _, start, stop in notes(exhaustive)]
    assert sum(covered) == (NUM_CANDIDATES + 1) * NUM_PAIRS


def test_full_scores_are_those_of_an_evaluation(
    candidates: Path, exhaustive: Path, tmp_path: Path
) -> None:
    config = compose_search(candidates, tmp_path)
    rows = ranking(exhaustive)
    task = load_task("sample-test", data_dir=None)
    for row in (rows[0], rows[-1]):
        encoder = load_encoder(
            config.model,
            _prompt_of(config, row),
            tmp_path / "cache",
            device=search_command.resolve_device("cpu"),
        )
        [score] = evaluate_sts(encoder, [task]).tasks
        # Ties aside, the order of similarities is the same whatever was encoded together.
        assert float(row["score"]) == pytest.approx(score.score, abs=0.02)
    summary = read_json(exhaustive / "summary.json")
    assert summary["rungs"][0]["max"] == pytest.approx(float(rows[0]["score"]))
    assert float(rows[0]["score"]) - float(rows[-1]["score"]) > 5


def test_an_exhaustive_search_says_how_often_halving_agrees(
    exhaustive: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_json(finished / "summary.json")["agreement"] is None
    agreement = read_json(exhaustive / "summary.json")["agreement"]
    assert (agreement["rungs"], agreement["keep"]) == ([100, 200], [90])
    assert (agreement["num_orders"], agreement["same_winner"]) == (1000, 1.0)
    assert agreement["cost_ratio"] == 1.0


def test_the_halving_that_an_exhaustive_search_contains_agrees_with_its_table(
    candidates: Path, exhaustive: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(exhaustive, tmp_path / "run")
    folder = search(candidates, tmp_path, *SCHEDULE)
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()
    summary = read_json(folder / "summary.json")
    assert summary["agreement"]["rungs"] == RUNGS
    assert summary["cost"]["ratio"] == pytest.approx(summary["agreement"]["cost_ratio"])
    assert 0 < summary["agreement"]["same_winner"] < 1


# --- What it leaves behind ----------------------------------------------------------------------


def compose_search(candidates: Path, output_dir: Path, conf_dir: Path = CONF_DIR) -> SearchConfig:
    register()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        overrides = arguments(candidates, output_dir)[1:]
        config = to_typed(compose("search", overrides=overrides))
    assert isinstance(config, SearchConfig)
    return config


def _prompt_of(config: SearchConfig, row: dict[str, str]) -> PromptConfig:
    values = {key: row[key] for key in ("sentence", "word", "source")}
    return search_command.append_demonstration(
        config.prompt, search_command.DemonstrationConfig(**values)
    )


def test_the_ranking_holds_every_candidate_once_best_first(finished: Path) -> None:
    rows = ranking(finished)
    assert sorted(int(row["candidate"]) for row in rows) == list(range(1, NUM_CANDIDATES + 1))
    assert [int(row["rank"]) for row in rows] == list(range(1, NUM_CANDIDATES + 1))
    keys = [(-int(row["rung"]), -float(row["score"])) for row in rows]
    assert keys == sorted(keys)
    assert [sum(row["pairs"] == str(n) for row in rows) for n in RUNGS] == [
        NUM_CANDIDATES - 10,
        6,
        4,
    ]
    assert all(row["score"] == row[f"score_{row['pairs']}"] for row in rows)
    assert rows[-1]["score_200"] == ""


def test_a_drawn_part_of_the_candidates_grows_and_keeps_their_order() -> None:
    found = [DemonstrationConfig(sentence=str(i), word=str(i)) for i in range(50)]
    drawn = [draw_candidates(found, number, seed=3) for number in (10, 25, 50, 80, None)]
    assert [len(part) for part in drawn] == [10, 25, 50, 50, 50]
    for smaller, larger in pairwise(drawn):
        assert [c for c in larger if c in smaller] == smaller
    assert drawn[-1] == found
    assert drawn[0] != found[:10]
    assert drawn[0] == draw_candidates(found, 10, seed=3) != draw_candidates(found, 10, seed=4)


def test_the_summary_says_what_was_found_and_what_it_cost(finished: Path) -> None:
    summary, rows = read_json(finished / "summary.json"), ranking(finished)
    assert read_json(finished.parent / "results" / "searches" / "run.json") == summary
    assert summary["winner"]["candidate"] == int(rows[0]["candidate"])
    assert summary["winner"]["score"] == pytest.approx(float(rows[0]["score"]))
    first = summary["rungs"][0]
    scores = sorted(float(row["score_20"]) for row in rows)
    assert first["candidates"] == NUM_CANDIDATES
    assert (first["min"], first["max"]) == pytest.approx((scores[0], scores[-1]))
    assert first["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-3)
    above = sum(score > first["baseline"] for score in scores) / len(scores)
    assert first["above_baseline"] == pytest.approx(above)
    assert summary["cost"]["pairs"] == NUM_CANDIDATES * 20 + 10 * 40 + 4 * 140
    assert summary["cost"]["exhaustive_pairs"] == NUM_CANDIDATES * 200
    assert summary["gain"] == pytest.approx(summary["winner"]["score"] - summary["baseline"])
    assert (summary["task"], summary["dtype"]) == ("sample-test", "float32")
    assert summary["unit_seconds"] > 0
    assert summary["command"].startswith("python -m embedllm search model=tiny")


@pytest.fixture
def conf_dir(tmp_path: Path) -> Path:
    """A copy of conf/ that a test may write into."""
    return Path(shutil.copytree(CONF_DIR, tmp_path / "conf"))


def _search_saving(
    candidates: Path, tmp_path: Path, conf_dir: Path, name: str, **choices: str
) -> SearchConfig:
    config = compose_search(candidates, tmp_path, conf_dir)
    config.save_as = name
    overrides = arguments(candidates, tmp_path)[1:]
    run_search(config, Invocation(overrides, tmp_path / "run", conf_dir, choices))
    return config


def test_the_saved_prompt_is_an_option_that_gives_the_winner(
    candidates: Path, finished: Path, tmp_path: Path, conf_dir: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    config = _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")
    saved = conf_dir / "prompt" / "searched" / "tiny.yaml"
    assert saved.read_bytes() == (tmp_path / "run" / "prompt.yaml").read_bytes()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        composed = to_typed(compose("evaluate", overrides=["model=tiny", "prompt=searched/tiny"]))
    assert composed.prompt == _prompt_of(config, ranking(finished)[0])
    text = saved.read_text(encoding="utf-8")
    assert "# python evaluate.py model=tiny prompt=searched/tiny\n" in text
    assert str(tmp_path) not in text
    # A search may write its own file again, also with another outcome.
    _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")


def test_a_second_search_finds_a_second_demonstration(
    candidates: Path, finished: Path, tmp_path: Path, conf_dir: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")
    first = ranking(finished)[0]
    register()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        overrides = [*arguments(candidates, tmp_path)[1:], "prompt=searched/tiny"]
        overrides += ["search.max_candidates=3", "search.rungs=[200]", "search.keep=[]"]
        config = to_typed(compose("search", overrides=overrides))
    run_search(config, Invocation(overrides, tmp_path / "second", conf_dir))
    rows = ranking(tmp_path / "second")
    assert len(rows) == 3
    text = (tmp_path / "second" / "prompt.yaml").read_text(encoding="utf-8")
    assert text.index(first["word"]) < text.index(rows[0]["word"])


def test_a_folder_that_cannot_be_written_costs_a_warning(
    candidates: Path,
    finished: Path,
    tmp_path: Path,
    conf_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(conf_dir / "prompt" / "searched")
    (conf_dir / "prompt" / "searched").write_text("a file where a folder should be")
    _search_saving(candidates, tmp_path, conf_dir, "searched/tiny")
    [message] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"copy {tmp_path / 'run' / 'prompt.yaml'} there" in message
    assert "--config-dir" in message
    assert (tmp_path / "run" / "prompt.yaml").exists()


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        pytest.param(
            ["search.rungs=[100,250,600,1500]", "search.keep=[90,30,10]"],
            ["must end with all pairs", "sample-test has 200", "search.rungs=[100,200]"],
            id="more-pairs-than-there-are",
        ),
        pytest.param(
            ["search.rungs=[100]", "search.keep=[]"],
            ["must end with all pairs", "search.rungs=[200] search.keep=[]"],
            id="not-all-pairs",
        ),
        pytest.param(["search.keep=[10]"], ["one number less"], id="keep-does-not-fit"),
        pytest.param(["save_as=../x"], ["save_as='../x'", "without .yaml"], id="save-outside"),
        pytest.param(
            ["save_as=plain"], ["save_as=plain", "no search has written"], id="save-over-shipped"
        ),
        pytest.param(
            ["save_as=prompteol"], ["prompt that the search starts from"], id="save-over-start"
        ),
        pytest.param(["candidates=no.csv"], ["candidates=no.csv"], id="no-file"),
        pytest.param(["candidates=paper"], ["EMBEDLLM_DATA_DIR"], id="no-paper-set"),
        pytest.param(["evaluation=sts"], ["must be one task"], id="many-tasks"),
    ],
)
def test_errors_come_before_any_weight(
    candidates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    parts: list[str],
) -> None:
    monkeypatch.delattr(search_command, "load_encoder")
    with pytest.raises(SystemExit) as stop:
        search(candidates, tmp_path, *overrides)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    for part in parts:
        assert part in message
    assert not (tmp_path / "run" / "ranking.csv").exists()


def test_an_error_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("sentence,word\n")
    result = run_script("-m", "embedllm", *arguments(path, tmp_path))
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_candidate_that_the_model_has_no_room_for_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"sentence,word\nA dog.,Dog\n{'long ' * 300},Long\n")
    with pytest.raises(SystemExit) as stop:
        search(path, tmp_path)
    assert stop.value.code == 2
    assert "candidate 2 of" in capsys.readouterr().err
    assert not unit_times(tmp_path / "run")


def test_a_schedule_is_fitted_by_leaving_out_what_is_too_long() -> None:
    default = search_command.HalvingConfig()
    assert fit_schedule(default, 1500) == default
    fitted = fit_schedule(default, 300)
    assert (fitted.rungs, fitted.keep) == ([100, 250, 300], [90, 30])
    assert fit_schedule(default, 50).rungs == [50]
