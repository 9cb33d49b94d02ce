"""`python -m embedllm search`: killed, resumed, shared, damaged."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from forked import Forked
from processes import START_SECONDS, start_command, wait_for
from search_runs import (
    NUM_UNITS,
    arguments,
    compose_search,
    notes,
    prompt_of,
    ranking,
    search,
    unit_times,
)
from tiny_runs import REPOSITORY, read_json, script_environment

from embedllm.demonstrations import search_command
from embedllm.demonstrations.unit_store import UnitStore, prompt_key
from embedllm.ranks import Rank, current_rank

pytestmark = pytest.mark.usefixtures("entry_process")


def _other_process(folder: Path, finished: Path) -> UnitStore:
    """Returns the units of a search that is not done yet, as one more process would open them."""
    [units] = finished.glob("units-*")
    return UnitStore(folder, read_json(units / "identity.json"), rank=9)


def _winner(candidates: Path, finished: Path) -> str:
    """Returns the key of the prompt that is in every round."""
    config = compose_search(candidates, finished.parent)
    return prompt_key(prompt_of(config, ranking(finished)[0]))


def test_killed_and_resumed_equals_run_through(
    candidates: Path, finished: Path, tmp_path: Path
) -> None:
    store = _other_process(tmp_path / "run", finished)
    # Without the winner's units the search cannot be over before it is killed.
    with store.claimed(_winner(candidates, finished)):
        process = start_command(*arguments(candidates, tmp_path))
        wait_for(lambda: len(unit_times(tmp_path / "run")) >= 5, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60).returncode == -signal.SIGKILL
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
    store = _other_process(folder, finished)
    logs = [store.folder / "log" / f"rank-{rank}.csv" for rank in (0, 1)]
    keys = sorted({name.split("/")[0] for name in unit_times(finished)})
    call = arguments(candidates, tmp_path)
    processes: list[Forked] = []
    try:
        # Units take milliseconds. Each gets half of the prompts while the other one is stopped.
        with ExitStack() as second_half:
            with ExitStack() as first_half:
                for number, key in enumerate(keys):
                    half = second_half if number % 2 else first_half
                    assert half.enter_context(store.claimed(key))
                for rank in ("0", "1"):
                    processes.append(start_command(*call, RANK=rank, WORLD_SIZE="2"))
                for log, process in zip(logs, processes, strict=True):
                    wait_for(log.exists, process)
                processes[1].send_signal(signal.SIGSTOP)
            wait_for(lambda: _num_computed(logs[0]) > 0, processes[0])
            processes[0].send_signal(signal.SIGSTOP)
        processes[1].send_signal(signal.SIGCONT)
        wait_for(lambda: _num_computed(logs[1]) > 0, processes[1])
        processes[0].send_signal(signal.SIGCONT)
        ended = [process.wait(START_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
    texts = [process.stdout for process in ended]
    assert [process.returncode for process in ended] == [0, 0], texts
    rows = notes(folder)
    assert len({tuple(row) for row in rows}) == len(rows) == NUM_UNITS
    assert sum(map(_num_computed, logs)) == NUM_UNITS
    assert (folder / "ranking.csv").read_bytes() == (finished / "ranking.csv").read_bytes()
    # Only the main process reports.
    assert "results:" in texts[0]
    assert "results:" not in texts[1]


def _num_computed(log: Path) -> int:
    return len(log.read_text().splitlines()) - 1


def test_the_unit_of_a_killed_process_is_taken_over(
    candidates: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    [units] = (tmp_path / "run").glob("units-*")
    winner = _winner(candidates, finished)
    unit = units / winner / "60-200.npy"
    unit.unlink()
    claim = (
        "import sys, time; from pathlib import Path\n"
        "from embedllm.demonstrations.unit_store import UnitStore\n"
        "store = UnitStore(Path(sys.argv[1]), __import__('json').loads(sys.argv[2]))\n"
        "with store.claimed(sys.argv[3]) as mine: print(mine, flush=True); time.sleep(600)"
    )
    identity = (units / "identity.json").read_text()
    holder = subprocess.Popen(
        [sys.executable, "-c", claim, str(tmp_path / "run"), identity, winner],
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
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, Rank(5, 8, 1)),
        # torchrun inside a SLURM job: the task is torchrun, the ranks are its own.
        (
            {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
            Rank(1, 2),
        ),
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
