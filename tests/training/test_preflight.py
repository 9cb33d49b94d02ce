"""What is refused before any weight is loaded, and what `strategy=auto` becomes."""

from __future__ import annotations

import logging
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import build_tiny_config
from tiny_runs import read_json, tiny_config

from embedllm.errors import ConfigError
from embedllm.invocation import Invocation
from embedllm.planning import hardware as hardware_module
from embedllm.training import preflight
from embedllm.training.command import run_train

_Usage = namedtuple("_Usage", "total used free")


def test_a_run_that_fits_stays_as_it_is(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    assert preflight.settle(config, tmp_path / "run") == config


def test_auto_becomes_the_simplest_strategy_that_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path, "strategy=auto")
    with caplog.at_level(logging.INFO):
        settled = preflight.settle(config, tmp_path / "run")
    assert settled.strategy.name == "single"
    assert replace(settled, strategy=config.strategy) == config
    assert "strategy=auto is single" in caplog.text


def test_a_run_keeps_what_auto_became(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_process: None
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        # Whatever the run sets is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    config = tiny_config(tmp_path, "strategy=auto", "evaluation=none", "trainer.max_steps=1")
    run_train(config, Invocation([], tmp_path / "run"))
    assert read_json(tmp_path / "run" / "run.json")["config"]["strategy"]["name"] == "single"
    assert (tmp_path / "run" / "adapter").is_dir()


def test_a_model_whose_last_layer_runs_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(tiny_config(tmp_path), model=build_tiny_config("gpt2"))
    assert preflight.settle(config, tmp_path / "run") == config
    assert not caplog.records


def test_an_estimate_that_fails_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a shape\nand more")

    monkeypatch.setattr(preflight, "estimate_training", fail)
    config = tiny_config(tmp_path)
    assert preflight.settle(config, tmp_path / "run") == config
    [record] = caplog.records
    assert record.getMessage().endswith("the estimate failed: RuntimeError: a shape")
    with pytest.raises(RuntimeError, match="and more"):
        # Nothing has been chosen, so nothing can be run.
        monkeypatch.setattr(preflight, "choose_strategy", fail)
        preflight.settle(tiny_config(tmp_path, "strategy=auto"), tmp_path / "run")


def test_what_others_hold_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "total available")(2**40, 2**20)
    monkeypatch.setattr("embedllm.planning.host.psutil.virtual_memory", lambda: memory)
    config = tiny_config(tmp_path, "model=opt-125m", "model.init=random", "model.tokenizer=bundled")
    with pytest.raises(ConfigError, match=r"there are 0\.0 free for each process"):
        preflight.settle(config, tmp_path / "run")


def test_a_full_disk_is_found_before_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: _Usage(10, 10, 0))
    with pytest.raises(ConfigError, match=r"0\.00 GiB free.*paths\.output_dir"):
        preflight.settle(tiny_config(tmp_path), tmp_path / "run")


def test_weights_without_room_are_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "model=opt-66b", "model.init=random", "model.tokenizer=bundled")
    with pytest.raises(ConfigError, match=r"strategy=single needs \d{3}\.\d GiB by estimate.*nf4"):
        preflight.settle(config, tmp_path / "run")


@pytest.mark.slow  # Plans all strategies.
def test_no_strategy_fits(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, "model=opt-66b", "model.init=random", "model.tokenizer=bundled", "strategy=auto"
    )
    with pytest.raises(ConfigError, match=r"does not fit 1 x this machine in any way"):
        preflight.settle(config, tmp_path / "run")


def test_states_without_room_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # They can be computed again, and an estimate can be wrong.
    resolve = hardware_module.resolve_hardware
    small = replace(
        resolve(preflight.HardwareConfig(name="x", kind="cpu"), devices=1), memory=10**6
    )
    monkeypatch.setattr(preflight, "resolve_hardware", lambda config, **options: small)
    config = tiny_config(tmp_path)
    assert preflight.settle(config, tmp_path / "run") == config
    assert "the run is tried all the same" in caplog.text
