"""Values that fit alone but not together, variables, and keys that are added."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import compose_train

from embedllm.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(
            ["data.global_batch_size=8", "trainer.accumulate_grad_batches=3"],
            r"data\.global_batch_size=8 must be a multiple of trainer\.accumulate_grad_batches=3",
            id="batch-does-not-divide",
        ),
        pytest.param(
            ["data.global_batch_size=4", "trainer.accumulate_grad_batches=4"],
            r"accumulate_grad_batches=4 and leave at least 2 examples each",
            id="micro-batch-of-one",
        ),
        pytest.param(
            ["adapter.method=none"],
            r"adapter\.method=none leaves nothing to train; use adapter=lora",
            id="nothing-to-train",
        ),
        pytest.param(
            ["adapter=full", "model.dtype=float16"],
            r"adapter=full with model\.dtype=float16 has no float32 copy",
            id="full-float16",
        ),
        pytest.param(
            ["adapter=full", "model.layer=1"],
            r"adapter=full with model\.layer=1 would save a model without its upper layers",
            id="full-layer",
        ),
        pytest.param(
            ["model.token_prepending_layers=7"],
            r"model\.token_prepending_layers works without training only",
            id="untrained-layers",
        ),
        pytest.param(
            ["prompt.pool_over=sentence"],
            r"prompt\.pool_over=sentence works without training only",
            id="untrained-pooling",
        ),
        pytest.param(
            ["trainer.precision=bf16-true", "model.dtype=float16"],
            r"trainer\.precision=bf16-true contradicts model\.dtype=float16",
            id="two-precisions",
        ),
        pytest.param(
            ["model=huggingface", "model.name=x", "model.init=random"],
            r"model\.init=random needs model\.architecture with a model_type",
            id="random-without-architecture",
        ),
        pytest.param(
            ["data.source=path"], r"data\.path is not set: give data\.path=", id="no-path"
        ),
        pytest.param(["model=huggingface"], r"model\.name", id="no-model-name"),
    ],
)
def test_impossible_combinations(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_train(*([] if "model=huggingface" in overrides else ["debug=tiny"]), *overrides)


def test_several_processes_need_another_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"strategy=single was started with 2 processes"):
        compose_train("debug=tiny")
    monkeypatch.setenv("WORLD_SIZE", "1")
    compose_train("debug=tiny")


def test_nli_data_need_a_folder_or_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert compose_train("data=nli").data.path == str(tmp_path / "nli" / "nli_triplets.csv")
    monkeypatch.delenv("EMBEDLLM_DATA_DIR")
    with pytest.raises(ConfigError, match=r"data\.path is not set.*EMBEDLLM_DATA_DIR"):
        compose_train("data=nli")
    assert compose_train("data=nli", "data.path=my.csv").data.path == "my.csv"


def test_the_cache_follows_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDLLM_CACHE_DIR", "/somewhere/cache")
    assert compose_train().paths.cache_dir == "/somewhere/cache"
    monkeypatch.delenv("EMBEDLLM_CACHE_DIR")
    assert compose_train().paths.cache_dir == str(Path.home() / ".cache" / "embedllm")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.learnin_rate=1", r"unknown key 'trainer.learnin_rate'; did you mean learning_r"),
        ("+foo=1", r"unknown key 'foo'\nallowed at the top level: run_name, sweep_name"),
        ("++data.columns.anchr=a", r"unknown key 'data.columns.anchr'; did you mean anchor"),
    ],
)
def test_a_plus_sign_adds_no_unknown_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_train("debug=tiny", override)


def test_a_plus_sign_adds_options_of_adapter_and_architecture() -> None:
    config = compose_train(
        "debug=tiny",
        "+adapter.options.use_rslora=true",
        "+model.architecture.attention_dropout=0.1",
    )
    assert config.adapter.options["use_rslora"] is True
    assert config.model.architecture["attention_dropout"] == 0.1
