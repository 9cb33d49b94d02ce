"""A run that is started twice, and data that changes under a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_tally import Tally
from killable_runs import Moment, Pause, Starter, newest_step, wait_until
from tiny_runs import have_equal_weights

SHORT = ("trainer.max_steps=12", "trainer.log_every_n_steps=1000", "evaluation=none")
TWO_RANKS = ("strategy=ddp", "strategy.timeout_seconds=60")


def test_of_two_starts_at_once_one_refuses(
    starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    pause = Pause("step", 3)
    shared = f"paths.output_dir={tmp_path / 'output'}"
    started = [
        (*starter.start(tmp_path / name, *SHORT, shared, pause=pause)[0], tmp_path / name)
        for name in ("one", "other")
    ]
    while all(process.is_alive() for process, _, _ in started):
        time.sleep(0.01)
    [(loser, _, place)] = [s for s in started if not s[0].is_alive()]
    [(winner, page, _)] = [s for s in started if s[0].is_alive()]
    assert loser.exitcode == 2
    _check_refusal((place / "rank-0.log").read_text())
    # The other one is at work all the time, and does not mind.
    assert wait_until(lambda: page.has_paused(pause), winner)
    page.go_on()
    winner.join()
    assert winner.exitcode == 0
    assert have_equal_weights(tmp_path / "output" / "run" / "adapter", whole(*SHORT) / "adapter")
    tally.add("two starts into one folder at once")


@pytest.mark.slow
def test_two_ranks_refuse_a_folder_in_use(
    starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    overrides, pause = (*SHORT, *TWO_RANKS), Pause("step", 3)
    [(process, page), other] = starter.start(first, *overrides, num_ranks=2, pause=pause)
    assert wait_until(lambda: page.has_paused(pause), process)
    shared = f"paths.output_dir={first / 'output'}"
    late = starter.start(second, *overrides, shared, num_ranks=2)
    for rank, _ in late:
        rank.join()
    assert [rank.exitcode for rank, _ in late] == [2, 2]
    _check_refusal("".join((second / f"rank-{i}.log").read_text() for i in range(2)))
    page.go_on()
    for rank, _ in ((process, page), other):
        rank.join()
        assert rank.exitcode == 0
    adapter = first / "output" / "run" / "adapter"
    assert have_equal_weights(adapter, whole(*overrides, num_ranks=2) / "adapter")
    tally.add("a second start into one folder, two ranks")


def _check_refusal(said: str) -> None:
    assert said.count("error: ") == 1
    assert "is in use by another run; wait for it or choose another run_name" in said
    assert "Traceback" not in said


def _write(path: Path, num_rows: int) -> None:
    rows = (f"anchor {i} of many,positive {i * i},negative {i}\n" for i in range(num_rows))
    path.write_text("sent0,sent1,hard_neg\n" + "".join(rows))


def test_data_that_change_while_a_run_goes_on(
    starter: Starter, tally: Tally, tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    _write(path, 96)
    overrides = (*SHORT, "data=nli", f"data.path={path}", "data.max_examples=null")
    overrides += ("data.global_batch_size=8",)
    expected = starter.finish(tmp_path / "whole", *overrides) / "adapter"

    # A run that is at work has read its data.
    at_work = tmp_path / "at-work"
    pause = Pause("step", 1)
    [(process, page)] = starter.start(at_work, *overrides, pause=pause)
    assert wait_until(lambda: page.has_paused(pause), process)
    _write(path, 97)
    page.go_on()
    process.join()
    assert process.exitcode == 0
    assert have_equal_weights(at_work / "output" / "run" / "adapter", expected)

    # One that was killed is not continued with other data.
    _write(path, 96)
    killed = tmp_path / "killed"
    death = starter.kill(killed, Moment("step", 14, 0.0), *overrides)
    assert death is not None
    _write(path, 97)
    [(process, _)] = starter.start(killed, *overrides)
    process.join()
    assert process.exitcode == 2
    message = (killed / "rank-0.log").read_text().split("error: ")[-1]
    assert "data_sha256: was " in message
    assert newest_step(killed) == death.checkpoint
    _write(path, 96)
    assert have_equal_weights(starter.finish(killed, *overrides) / "adapter", expected)
    tally.add("training data that change", steps_lost=[0, death.steps_lost])
