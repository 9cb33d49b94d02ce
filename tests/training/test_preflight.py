"""What is refused before any weight is loaded, and what `strategy=auto` becomes."""

from __future__ import annotations

import logging
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import build_tiny_config
from tiny_runs import read_json, tiny_config

from embedllm.config import StrategyConfig, TrainConfig
from embedllm.errors import ConfigError
from embedllm.invocation import Invocation
from embedllm.planning import hardware as hardware_module
from embedllm.planning.answers import Choice, estimate_training
from embedllm.planning.hardware import Hardware
from embedllm.planning.planner import Candidate
from embedllm.training import preflight
from embedllm.training.command import run_train
from embedllm.training.run_folder import RunFolder

_Usage = namedtuple("_Usage", "total used free")


def test_a_run_that_fits_stays_as_it_is(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    assert preflight.settle(config, tmp_path / "run") == config


def test_auto_becomes_the_simplest_strategy_that_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path, "strategy=auto", "strategy.timeout_seconds=77")
    with caplog.at_level(logging.INFO):
        settled = preflight.settle(config, tmp_path / "run")
    assert settled.strategy.name == "single"
    assert settled.strategy.timeout_seconds == 77
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


Chooser = Callable[[str, str, int], None]


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """What a tiny training takes."""
    hardware = preflight._this_machine(torch.device("cpu"), 1, is_measured=False)
    return estimate_training(tiny_config(tmp_path_factory.mktemp("planned")), hardware)


@pytest.fixture
def choose(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> Chooser:
    """Lets the planner choose a strategy, a checkpointing and tokens in a pack."""
    monkeypatch.setattr(preflight, "_this_machine", lambda *_, **__: None)
    monkeypatch.setattr(preflight, "estimate_training", lambda *_: candidate)

    def choose(strategy: str, checkpointing: str, tokens: int) -> None:
        def answer(config: TrainConfig, _: Hardware) -> Choice:
            trainer = replace(config.trainer, activation_checkpointing=checkpointing)
            return Choice(StrategyConfig(strategy), trainer, tokens, candidate)

        monkeypatch.setattr(preflight, "choose_strategy", answer)

    return choose


def _begin(config: TrainConfig, root: Path) -> None:
    """Starts a run that gets as far as a checkpoint."""
    with RunFolder(root).claimed(config, "checksum"):
        (root / "checkpoints").mkdir()


def test_auto_is_what_it_was_when_the_run_began(
    tmp_path: Path, choose: Chooser, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "run"
    auto = tiny_config(tmp_path, "strategy=auto")
    choose("single", "packs", 300)
    began = preflight.settle(auto, root)
    _begin(began, root)
    # Measured rates differ from start to start.
    choose("ddp", "none", 200)
    auto = replace(auto, strategy=replace(auto.strategy, timeout_seconds=77))
    with caplog.at_level(logging.INFO):
        again = preflight.settle(auto, root)
    assert again == replace(began, strategy=replace(began.strategy, timeout_seconds=77))
    said = "strategy=auto is single with trainer.activation_checkpointing=packs and "
    assert f"{said}data.tokens_per_pack=300, as this run began" in caplog.text
    with RunFolder(root).claimed(again, "checksum"):
        pass  # Is not refused.
    # More to compute again, for a run that has no memory left.
    trainer = replace(auto.trainer, activation_checkpointing="layers")
    more = preflight.settle(replace(auto, trainer=trainer), root)
    assert more.trainer.activation_checkpointing == "layers"


def test_auto_chooses_anew_where_another_layout_is_wanted(
    tmp_path: Path, choose: Chooser, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    auto = tiny_config(tmp_path, "strategy=auto", "data.tokens_per_pack=300")
    choose("single", "packs", 300)
    _begin(preflight.settle(auto, root), root)
    choose("ddp", "none", 300)
    assert preflight.settle(replace(auto, resume="adapt"), root).strategy.name == "ddp"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert preflight.settle(auto, root).strategy.name == "ddp"


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
