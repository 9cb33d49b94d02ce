"""What W&B is told about a run, read back from the files that it would upload."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import wandb
from documents import documented
from offline_files import OfflineRun, offline_runs
from sweep_runs import run_sweep
from tiny_runs import (
    extra_callback,
    read_json,
    run_script,
    script_environment,
    tiny_config,
    train_tiny,
)

from embedllm.training.runner import train
from embedllm.versions import git_revision

PLANTED = "0123456789abcdef0123456789abcdef01234567"
_TINY = ("trainer.max_steps=4", "evaluation.dev_every_n_steps=2", "data.max_examples=32")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", PLANTED)
    monkeypatch.setenv("HF_TOKEN", f"hf_{PLANTED}")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    # Its settings are read once in a process.
    wandb.teardown()


def _csv_curve(run: Path, key: str) -> dict[int, float]:
    [path] = run.glob("logs/version_*/metrics.csv")
    with path.open() as file:
        return {int(r["step"]): float(r[key]) for r in csv.DictReader(file) if r[key]}


def _table(found: OfflineRun) -> dict[str, Any]:
    [row] = [row for row in found.history if "scores/path" in row]
    return read_json(found.folder / "files" / row["scores/path"])


class _Stop(pl.Callback):
    """Ends a training after some steps as an error would."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("stopped")


def test_everything_about_a_run_is_there_and_a_resumed_one_goes_on_in_it(tmp_path: Path) -> None:
    command = documented("python train.py logger=wandb logger.project=mine logger.tags=[nli,first]")
    overrides = (*_TINY, *command[2:])
    overrides += ("sweep_name=of-seeds", "trainer.checkpoint_every_n_steps=1")
    overrides += ("logger.save_adapter=true", "run_name='up:*? x'")
    config = tiny_config(tmp_path, *overrides)
    root = tmp_path / "run"
    with extra_callback(_Stop()), pytest.raises(RuntimeError, match="stopped"):
        train(config, root)
    result = train(config, root)
    first, second = offline_runs(root)
    for found in (first, second):
        assert found.run.run_group == "of-seeds"
        assert found.run.job_type == "train"
        assert found.run.project == "mine"
        assert list(found.run.tags) == ["nli", "first"]
        assert found.run.display_name == "up:*? x"
        assert found.config["trainer"]["max_steps"] == 4
        assert found.config["model"]["name"] == config.model.name
        assert found.config["git_revision"] == git_revision()
    assert first.run.run_id == second.run.run_id
    assert (first.exit_code, first.is_preempted) == (1, False)
    # The curves of both starts together are those of the whole run, under the same steps.
    losses = first.curve("train/loss") | second.curve("train/loss")
    assert sorted(losses) == [1, 2, 3, 4]
    assert all(row["train/peak_memory_gib"] > 0.01 for row in second.history if "train/loss" in row)
    assert second.curve("dev/sample-dev").keys() == {4}
    assert all(second.curve("train/sentences_per_second").values())
    # Without a step of its own the table has the scores of the run's files.
    table = _table(second)
    assert table["columns"] == ["scores", "sample-test", "sts average"]
    assert result.before is not None
    assert result.after is not None
    averages = [record["averages"]["sts"] for record in (result.before, result.after)]
    assert [row[0] for row in table["data"]] == ["before", "after"]
    assert [row[-1] for row in table["data"]] == averages
    assert second.summary["scores/average_after"] == averages[1]
    adapter = read_json(result.adapter / "embedllm.json")
    assert second.summary["dev_score"] == adapter["training"]["dev_score"]
    assert second.summary["objective"] == adapter["training"]["dev_score"]
    [artifact] = [a for a in second.artifacts if a.type == "adapter"]
    assert artifact.name == "up-x-adapter"
    names = {entry.path for entry in artifact.manifest.contents}
    assert {path.name for path in result.adapter.iterdir()} == names
    # A third call has nothing to do, and nothing to tell.
    train(config, root)
    assert len(offline_runs(root)) == 2


def test_no_secret_is_in_any_file(tmp_path: Path) -> None:
    train_tiny(tmp_path, *_TINY, "logger=wandb")
    assert offline_runs(tmp_path / "run")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if PLANTED.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_two_ranks_are_one_run_and_jobs_of_a_sweep_are_several(tmp_path: Path) -> None:
    done = run_sweep(
        "python train.py sweep=seeds experiment=smollm2-nli logger=wandb logger.save_adapter=true",
        tmp_path,
        *("seed=1,2", "strategy=ddp", "trainer.devices=2"),
    )
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "seeds").glob("*/run.json"))
    found = [offline_runs(path.parent) for path in runs]
    assert [len(starts) for starts in found] == [1, 1]
    assert len({starts[0].run.run_id for starts in found}) == 2
    assert {starts[0].run.run_group for starts in found} == {"seeds"}
    assert {starts[0].config["world_size"] for starts in found} == {2}
    for path, [start] in zip(runs, found, strict=True):
        assert start.curve("train/loss") == pytest.approx(_csv_curve(path.parent, "train/loss"))
        assert [artifact.type for artifact in start.artifacts].count("adapter") == 1
        sync = f"wandb sync {start.folder}"
        assert done.stderr.count(sync) == 2, "at the start and at the end"


def test_evaluation_is_told_too(tmp_path: Path) -> None:
    done = run_script(
        *documented("python evaluate.py logger=wandb logger.group=base-models")[1:],
        *("model=tiny", "run_name=e", f"paths.output_dir={tmp_path}"),
        environment=script_environment(),
    )
    assert done.returncode == 0, done.stderr
    [found] = offline_runs(tmp_path / "e")
    record = read_json(tmp_path / "e" / "results.json")
    assert (found.run.job_type, found.run.run_group) == ("evaluate", "base-models")
    assert found.config["model"] == record["model"]
    assert _table(found)["data"] == [
        ["evaluation", record["tasks"]["sample-test"]["score"], record["averages"]["sts"]]
    ]
    assert json.dumps(found.config["git_revision"])
