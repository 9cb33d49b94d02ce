"""What is refused before any weight is loaded, and what `strategy=auto` becomes."""

from __future__ import annotations

import logging
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import tiny_config

from embedllm.errors import ConfigError
from embedllm.planning import hardware as hardware_module
from embedllm.training import preflight

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
    monkeypatch.setattr(preflight, "resolve_hardware", lambda config, *, devices: small)
    config = tiny_config(tmp_path)
    assert preflight.settle(config, tmp_path / "run") == config
    assert "the run is tried all the same" in caplog.text
