"""Which folder a run of a sweep has: made from its configuration, found again by any command."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny_runs import compose_raw, compose_train

from embedllm import multirun
from embedllm.config import fingerprint, training_identity
from embedllm.errors import ConfigError
from embedllm.multirun import name_sweep


def _sweep_name(*arguments: str) -> str:
    named = name_sweep(arguments)
    [word] = [word for word in named if word.startswith("sweep_name=")]
    assert [other for other in named if other != word] == list(arguments)
    return word.partition("=")[2]


def test_a_sweep_of_a_file_has_its_name() -> None:
    assert _sweep_name("sweep=seeds", "debug=tiny") == "seeds"
    assert _sweep_name("seed=1,2", "sweep=mine/of-ranks", "-m") == "mine-of-ranks"
    # Hydra takes flags before or behind its overrides, not among them.
    assert name_sweep(["seed=1,2", "sweep=s", "-m"])[-2:] == ["sweep_name=s", "-m"]
    assert name_sweep(["-m", "seed=1,2", "sweep=s"])[-1] == "sweep_name=s"


def test_any_other_is_named_by_what_varies_and_what_does_not() -> None:
    name = _sweep_name("-m", "debug=tiny", "seed=1,2", "model=opt-125m,opt-350m")
    assert name.startswith("model-seed-")
    # The order, more values, and what is no part of a run's identity make no difference.
    again = ("model=opt-125m,opt-350m,opt-1.3b", "--multirun", "paths.output_dir=x")
    again += ("seed=range(0,9)", "debug=tiny", "hydra/launcher=basic", "trainer.devices=2")
    assert _sweep_name(*again) == name
    assert _sweep_name("-m", "debug=tiny", "seed=1,2", "trainer.max_steps=3") != name
    assert _sweep_name("-m", "seed=1,2", "model=opt-125m,opt-350m") != name


def test_swept_keys_that_change_no_result_are_named() -> None:
    # The first is a file's, the second is named twice, the rest changes the result or names.
    arguments = (
        "-m",
        "strategy=ddp,fsdp2",
        "++trainer.devices=range(1,3)",
        "seed=1,2",
        "model=a,b",
    )
    *rest, _, last = name_sweep([*arguments, "trainer.on_nan=skip"])
    assert rest == [*arguments, "trainer.on_nan=skip"]
    assert last == "swept_keys=[strategy,trainer.devices]"
    assert name_sweep([*arguments, "sweep_name=own"])[-1] == last
    own = ("strategy=ddp,fsdp2", "-m", "sweep_name=a,b", "swept_keys=[]")
    assert name_sweep(own) == list(own)


def test_those_of_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multirun, "CONF_DIR", tmp_path)
    (tmp_path / "sweep").mkdir()
    text = "hydra: {sweeper: {params: {+trainer.devices: '1,2', seed: '1,2'}}}"
    (tmp_path / "sweep" / "speed.yaml").write_text(text)
    assert name_sweep(["sweep=speed"])[1:] == ["sweep_name=speed", "swept_keys=[trainer.devices]"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed=1",),
        ("sweep=seeds", "hydra.mode=RUN"),
        ("sweep=null", "seed=1"),
        ("sweep=seeds", "sweep_name=own"),
        ("-m", "seed=[1,"),
        ("--help",),
        (),
    ],
)
def test_all_else_is_left_alone(arguments: Sequence[str]) -> None:
    assert name_sweep(arguments) == list(arguments)


def test_the_name_of_one_run_is_none_for_a_sweep() -> None:
    with pytest.raises(ConfigError, match="run_name=x is the name of one run"):
        name_sweep(["sweep=seeds", "run_name=x"])
    assert name_sweep(["-m", "run_name=x,y", "sweep_name=s"])


def test_a_run_is_named_by_its_configuration() -> None:
    config = compose_train("debug=tiny", "sweep_name=any", "seed=3")
    digest = fingerprint(training_identity(config))
    assert config.run_name == f"tiny-opt-seed3-{digest[:12]}"
    # Whatever else is said about where it runs.
    other = ("paths.output_dir=x", "logger=wandb", "strategy=ddp", "trainer.devices=2")
    assert compose_train("debug=tiny", "sweep_name=b", "seed=3", *other).run_name == config.run_name
    assert compose_train("debug=tiny", "sweep_name=any", "seed=4").run_name != config.run_name


def test_a_swept_key_has_runs_of_its_own() -> None:
    composed = compose_raw("train", "debug=tiny", "sweep_name=s")

    def name(swept: list[str], **changes: Any) -> str:
        config = copy.deepcopy(composed)
        for key, value in {"swept_keys": swept, **changes}.items():
            OmegaConf.update(config, key, value)
        found: str = config.run_name
        return found

    for key, changed, values in (
        ("strategy", "strategy.stage", (2, 3)),
        ("trainer.devices", "trainer.devices", (1, 2)),
        ("trainer.on_nan", "trainer.on_nan", ("stop", "skip")),
        ("trainer.activation_checkpointing", "trainer.activation_checkpointing", ("none", "all")),
        ("evaluation.share_prefix", "evaluation.share_prefix", (True, False)),
        # It may refer to the run's name, which is being made.
        ("logger", "logger.project", ("${run_name}", "other")),
        ("resume", "resume", ("auto", "never")),
    ):
        first, second = (name([key], **{changed: value}) for value in values)
        assert first != second, key
        # Whatever is swept besides, and however else it is run.
        assert name(["seed", key], **{changed: values[0], "num_trials": 3}) == first, key
        # Where nothing of this kind is swept it is the run of a single command.
        for swept in ([], ["seed", "sweep_name", "run_name"]):
            assert {name(swept, **{changed: value}) for value in values} == {composed.run_name}


def test_folders_of_runs_and_sweeps() -> None:
    single = compose_raw("train", "run_name=a", with_hydra=True)
    swept = compose_raw("train", "run_name=a", "sweep_name=s", with_hydra=True)
    assert single.hydra.run.dir == "outputs/a"
    assert swept.hydra.run.dir == "outputs/s/a"
    assert (swept.hydra.sweep.dir, swept.hydra.sweep.subdir) == ("outputs/s", "a")


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ""])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep_name=.* must be a plain folder name"):
        compose_train("debug=tiny", f"sweep_name='{name}'", "run_name=x")
