"""A sweep that lost runs is completed by its own command; what is done is not done again."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import documented
from sweep_runs import kill_sweep_when, run_sweep, tiny_sweep
from tiny_runs import read_json, read_weights, run_script

_LONGER = ("trainer.max_steps=20", "trainer.max_epochs=5", "evaluation.dev_every_n_steps=20")
SEEDS = "python train.py sweep=seeds experiment=smollm2-nli"


def _runs(sweep: Path) -> dict[int, Path]:
    """Returns the run folders by seed, of those that began."""
    found = [path.parent for path in sweep.glob("*/run.json")]
    return {read_json(run / "run.json")["config"]["seed"]: run for run in found}


def test_a_killed_sweep_goes_on_and_a_failed_run_stops_no_other(tmp_path: Path) -> None:
    sweep = tmp_path / "seeds"
    # The second run is killed between its first checkpoint and its last step.
    kill_sweep_when(
        lambda: any(sweep.glob("*-seed8-*/checkpoints/*.ckpt")),
        *(SEEDS, tmp_path, "seed=7,8,9", *_LONGER),
    )
    first = _runs(sweep)[7]
    weights = (first / "adapter" / "adapter_model.safetensors").stat()
    assert not (_runs(sweep)[8] / "adapter").exists()
    # The same command, with a value that cannot work in front and one more behind.
    done = run_sweep(*(SEEDS, tmp_path, "seed=-1,7,8,9", *_LONGER))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("done before, skipped") == 1
    assert f"done before, skipped: {first}" in done.stderr
    assert done.stderr.count("resuming from") == 1
    assert f"resuming from {_runs(sweep)[8]}" in done.stderr
    # Nothing of the first run was touched.
    assert (first / "adapter" / "adapter_model.safetensors").stat() == weights
    assert all((run / "results" / "after.json").is_file() for run in _runs(sweep).values())
    assert sorted(_runs(sweep)) == [7, 8, 9]
    *_, head, reason = done.stderr.strip().splitlines()
    assert head == "error: 1 run of the sweep failed; the same command tries again"
    assert reason.startswith(f"{sweep}/tiny-opt-seed-1-")
    assert "seed=-1 is out of range" in reason
    python, *report = documented("python -m embedllm report sweep=seeds")
    assert python == "python"
    told = run_script(*report, f"paths.output_dir={tmp_path}")
    assert told.returncode == 0, told.stderr
    assert "4 runs: 3 done, 1 failed. Varied: `seed`." in told.stdout
    assert "seed=-1 is out of range" in told.stdout
    assert (sweep / "report.md").read_text("utf-8") == told.stdout


@pytest.mark.slow
def test_data_that_changed_is_not_taken_for_done(tmp_path: Path) -> None:
    rows = ["sent0,sent1,hard_neg", *(f"A {w}.,The {w}.,No {w}." for w in "abcdefgh")]
    file = tmp_path / "data.csv"
    file.write_text("\n".join(rows))
    command = "python train.py --multirun model=opt-125m,opt-350m seed=1,2,3 sweep_name=small-opt"
    own = ("model=tiny", "seed=1", "data.source=path", f"data.path={file}", "trainer.max_steps=1")
    first = run_sweep(command, tmp_path, *own)
    assert first.returncode == 0, first.stderr
    file.write_text("\n".join([*rows, "A i.,The i.,No i."]))
    second = run_sweep(command, tmp_path, *own)
    assert second.returncode == 2
    assert "data_sha256: was" in second.stderr
    assert "skipped" not in second.stderr


@pytest.mark.slow
def test_the_runs_of_a_sweep_are_those_of_single_commands(tmp_path: Path) -> None:
    command = "python train.py sweep=lora-rank experiment=smollm2-nli"
    done = run_sweep(command, tmp_path, "adapter.options.r=2,4")
    assert done.returncode == 0, done.stderr
    _, *arguments = tiny_sweep(command, tmp_path / "b", "adapter.options.r=4", "run_name=x")
    single = run_script("train.py", *(a for a in arguments if a != "sweep=lora-rank"))
    assert single.returncode == 0, single.stderr
    weights = [read_weights(path) for path in (tmp_path / "lora-rank").glob("*/adapter")]
    [same] = [w for w in weights if next(iter(w.values())).shape[0] == 4]
    other = read_weights(tmp_path / "b" / "x" / "adapter")
    assert all(same[name].equal(other[name]) for name in other)
