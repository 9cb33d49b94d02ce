"""kill -9 at random moments, in a step, in an evaluation, while something is written.

The run goes on each time, and in the end the adapter is that of a run that nobody killed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fault_tally import Tally, count_lost, read_saved
from killable_runs import Death, Moment, Starter, random_moments
from tiny_runs import have_equal_weights, read_weights

from embedllm.training.checkpoints import newest_checkpoint, read_checkpoint

_log = logging.getLogger(__name__)

EVERY = 3  # steps between checkpoints
TWO_RANKS = ("strategy=ddp", "strategy.timeout_seconds=60")
_TWO_RANKS_TOLERANCE = 1e-6


def _kill_at(
    moments: Sequence[Moment], starter: Starter, folder: Path, *overrides: str, num_ranks: int = 1
) -> tuple[list[tuple[Death, Path]], int]:
    """Kills runs at these moments, each of them until it ends, and finishes the last.

    Returns:
        What each kill found, with the folder of its run; and how many saved files were lost.
    """
    deaths: list[tuple[Death, Path]] = []
    lost = run = 0
    for moment in moments:
        death = None
        while death is None:
            place = folder / f"{run}"
            death = starter.kill(place, moment, *overrides, num_ranks=num_ranks)
            # The run had ended before its moment came: the next one is another run.
            run += death is None
        saved = read_saved(place / "output") | read_saved(place)
        deaths.append((death, place))
        newest = newest_checkpoint(place / "output" / "run" / "checkpoints")
        assert newest is None or read_checkpoint(newest)["global_step"] == death.checkpoint
        _log.info("%s: %s, %d files saved", moment, death, len(saved))
    for place in {place for _, place in deaths}:
        before = read_saved(place / "output") | read_saved(place)
        starter.finish(place, *overrides, num_ranks=num_ranks)
        lost += count_lost(before, read_saved(place / "output") | read_saved(place))
        # The scores before and after, each stored once.
        assert len(list((place / "results").glob("*.json"))) == 2
    return deaths, lost


def _note(tally: Tally, fault: str, deaths: Sequence[tuple[Death, Path]], lost: int) -> None:
    for death, _ in deaths:
        assert death.steps_lost <= EVERY
        phase = "writing" if death.phase in ("adapter", "checkpoint") else death.phase
        name = f"{fault}, in {phase}"
        tally.add(name, steps_lost=[death.steps_lost])
    tally.rows[name].data_lost += lost
    assert lost == 0


def _check_one_process(
    moments: Sequence[Moment],
    starter: Starter,
    whole: Callable[..., Path],
    tally: Tally,
    folder: Path,
) -> list[Death]:
    deaths, lost = _kill_at(moments, starter, folder)
    for _, place in deaths:
        assert have_equal_weights(place / "output" / "run" / "adapter", whole() / "adapter")
    assert all(death.codes == [-9] for death, _ in deaths)
    _note(tally, "kill -9, one process", deaths, lost)
    return [death for death, _ in deaths]


def test_kills_of_one_process(
    starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    # What a kill hits in the end is chance: the twenty below hit everything.
    _check_one_process(random_moments(7, 4), starter, whole, tally, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_of_one_process(
    starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    deaths = _check_one_process(random_moments(20261, 20), starter, whole, tally, tmp_path)
    assert {"step", "evaluation", "checkpoint"} <= {death.phase for death in deaths}


def _check_two_ranks(
    moments: Sequence[Moment],
    starter: Starter,
    whole: Callable[..., Path],
    tally: Tally,
    folder: Path,
    *overrides: str,
) -> None:
    overrides = (*TWO_RANKS, *overrides)
    deaths, lost = _kill_at(moments, starter, folder, *overrides, num_ranks=2)
    expected = read_weights(whole(*overrides, num_ranks=2) / "adapter")
    for _, place in deaths:
        found = read_weights(place / "output" / "run" / "adapter")
        difference = max(float((found[n] - expected[n]).abs().max()) for n in expected)
        assert difference <= _TWO_RANKS_TOLERANCE
    for (death, _), moment in zip(deaths, moments, strict=True):
        # The other rank ends by itself, and says that it lost one.
        assert death.codes[moment.rank] == -9
        assert death.codes[1 - moment.rank] == 3
    _note(tally, "kill -9, one of two ranks", deaths, lost)


def test_kills_of_one_of_two_ranks(
    starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    moments = [Moment("checkpoint", 2, 0.003, rank=0)]
    _check_two_ranks(moments, starter, whole, tally, tmp_path, "trainer.max_steps=12")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [20262, 20263, 20264, 20265])
def test_five_kills_of_one_of_two_ranks(
    seed: int, starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    moments = random_moments(seed, 5, num_ranks=2)
    _check_two_ranks(moments, starter, whole, tally, tmp_path)
