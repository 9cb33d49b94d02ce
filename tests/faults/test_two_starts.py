"""A run that is started twice, and data that changes under a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_tally import Tally
from killable_runs import Moment, Starter, newest_step, wait_until
from tiny_runs import have_equal_weights

SHORT = ("trainer.max_steps=12", "evaluation=none")
TWO_RANKS = ("strategy=ddp", "strategy.timeout_seconds=60")


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_second_start_refuses(
    num_ranks: int, starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    overrides = SHORT if num_ranks == 1 else (*SHORT, *TWO_RANKS)
    [(process, page), *others] = starter.start(
        first, *overrides, num_ranks=num_ranks, step_seconds=0.5
    )
    assert wait_until(lambda: page.read()[2] >= 1, process)
    shared = f"paths.output_dir={first / 'output'}"
    late = starter.start(second, *overrides, shared, num_ranks=num_ranks)
    for other, _ in late:
        other.join()
    assert [other.exitcode for other, _ in late] == [2] * num_ranks
    said = "".join((second / f"rank-{rank}.log").read_text() for rank in range(num_ranks))
    assert said.count("error: ") == 1
    assert "is in use by another run; wait for it or choose another run_name" in said
    assert "Traceback" not in said
    # The first one was still at work, and does not mind.
    assert page.read()[2] < 12
    for other, _ in [(process, page), *others]:
        other.join()
        assert other.exitcode == 0
    adapter = first / "output" / "run" / "adapter"
    assert have_equal_weights(adapter, whole(*overrides, num_ranks=num_ranks) / "adapter")
    tally.add(f"two starts into one folder, {num_ranks} rank(s)")


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
    [(process, page)] = starter.start(at_work, *overrides, step_seconds=0.1)
    assert wait_until(lambda: page.read()[2] >= 1, process)
    _write(path, 97)
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
