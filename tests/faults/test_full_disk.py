"""A disk that is full or read-only: one message, nothing lost, and the same command goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_tally import Tally, count_lost, read_saved
from killable_runs import Pause, Starter, newest_step, wait_until
from mounted_disks import fill, make_read_only, make_writable, small_disk
from tiny_runs import have_equal_weights

# The file of metrics stays out of the way of what is looked at.
SHORT = ("trainer.max_steps=12", "trainer.log_every_n_steps=1000")
NO_SCORES = (*SHORT, "evaluation=none")
LATE = "trainer.checkpoint_every_n_steps=1000"
# Only the score at the end, with an adapter that is there by then.
END_SCORE = (*SHORT, "evaluation.before=false", "evaluation.dev_task=null")
_DEADLINE_SECONDS = 200


def _message(log: Path) -> str:
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert text.count("error: ") == 1, text
    return " ".join(text.split("error: ")[1].split())


@pytest.mark.parametrize(
    ("disk", "overrides", "phase", "at_step", "parts"),
    [
        pytest.param(
            "output",
            NO_SCORES,
            "step",
            5,
            ["/checkpoints/step-000006.ckpt cannot be written", "paths.output_dir"],
            id="checkpoint",
        ),
        pytest.param(
            "output",
            (*SHORT, LATE, "evaluation.before=false"),
            "step",
            5,
            ["/candidates/step-000008 cannot be written", "paths.output_dir"],
            id="adapter",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "output",
            END_SCORE,
            "evaluation",
            0,
            ["/run/results/after.json cannot be written", "paths.output_dir"],
            id="results",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "results",
            END_SCORE,
            "evaluation",
            0,
            ["the result cannot be stored in", "paths.results_dir"],
            id="store",
        ),
    ],
)
def test_a_disk_that_fills_up(
    disk: str,
    overrides: tuple[str, ...],
    phase: str,
    at_step: int,
    parts: list[str],
    starter: Starter,
    whole: Callable[..., Path],
    tally: Tally,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    folder = tmp_path / "run"
    pause = Pause(phase, at_step)
    with small_disk(folder / disk) as mounted:
        [(process, page)] = starter.start(folder, *overrides, pause=pause)
        assert wait_until(lambda: page.has_paused(pause), process)
        filler = fill(mounted)
        page.go_on()
        process.join(_DEADLINE_SECONDS)
        assert process.exitcode == 2, (folder / "rank-0.log").read_text()[-2000:]
        message = _message(folder / "rank-0.log")
        for part in [*parts, str(mounted), "No space left on device", "0.0 MiB free"]:
            assert part in message
        before = read_saved(folder / "output") | read_saved(folder)
        made, saved = page.read()[2], newest_step(folder)
        is_trained = (folder / "output" / "run" / "adapter").exists()
        filler.unlink()
        run = starter.finish(folder, *overrides)
        assert have_equal_weights(run / "adapter", whole(*overrides) / "adapter")
        lost = count_lost(before, read_saved(folder / "output") | read_saved(folder))
    assert lost == 0
    name = request.node.callspec.id
    steps = 0 if is_trained else max(0, made - saved)
    tally.add(f"disk full while the {name} is written", steps_lost=[steps], data_lost=lost)


def test_a_full_disk_for_caches_costs_no_run(
    starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with small_disk(folder / "cache") as mounted:
        fill(mounted)
        run = starter.finish(folder, *NO_SCORES)
        assert have_equal_weights(run / "adapter", whole(*NO_SCORES) / "adapter")
        log = (folder / "rank-0.log").read_text()
        assert f"cannot be kept in {mounted}/tokens" in log
        assert "0.0 MiB free" in log
        assert "paths.cache_dir" in log
        # Vectors that are asked for are refused in the beginning, when nothing is lost yet.
        [(process, _)] = starter.start(
            tmp_path / "other",
            *SHORT,
            "evaluation.cache_vectors=true",
            f"paths.cache_dir={mounted}",
        )
        process.join(_DEADLINE_SECONDS)
        assert process.exitcode == 2
        message = _message(tmp_path / "other" / "rank-0.log")
        for part in (f"the vector cache {mounted}", "0.0 MiB free", "evaluation.cache_vectors"):
            assert part in message
    tally.add("disk full while caches are written", steps_lost=[0, 0])


@pytest.mark.parametrize("disk", ["output", pytest.param("results", marks=pytest.mark.slow)])
def test_a_folder_that_is_read_only(
    disk: str, starter: Starter, whole: Callable[..., Path], tally: Tally, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with small_disk(folder / disk) as mounted:
        make_read_only(mounted)
        [(process, _)] = starter.start(folder, *END_SCORE)
        process.join(_DEADLINE_SECONDS)
        assert process.exitcode == 2, (folder / "rank-0.log").read_text()[-2000:]
        message = _message(folder / "rank-0.log")
        for part in (str(mounted), "Read-only file system", f"paths.{disk}_dir"):
            assert part in message
        before = read_saved(folder / "output")
        make_writable(mounted)
        run = starter.finish(folder, *END_SCORE)
        assert have_equal_weights(run / "adapter", whole(*END_SCORE) / "adapter")
        lost = count_lost(before, read_saved(folder / "output"))
        assert len(list((folder / "results").glob("*.json"))) == 1
    assert lost == 0
    tally.add(f"the {disk} folder is read-only", data_lost=lost)
