"""Every range is checked, on both of its sides, and named by its key."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from conf_options import CONFIG_MODULES, NAMES
from omegaconf import OmegaConf
from tiny_runs import compose_evaluate, compose_raw, compose_train

from embedllm.config import TrainConfig
from embedllm.entry import to_typed
from embedllm.errors import ConfigError

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
    "strategy.name": (["horovod"], ["single", "ddp", "fsdp2", "auto"]),
    "strategy.offload": (["disk"], ["none"]),
    "strategy.timeout_seconds": (["0"], ["1"]),
    "model.quantization": (["fp4"], ["none", "nf4", "int8"]),
    "trainer.devices": (["0"], ["1"]),
    "trainer.num_nodes": (["0"], ["1"]),
    "trainer.on_nan": (["ignore"], ["stop", "skip"]),
    "trainer.dropout_by": (["text"], ["auto", "token", "pack"]),
    "logger.timeout_seconds": (["0"], ["1"]),
    "evaluation.layout": (["csv"], ["auto", "senteval", "jsonl"]),
    "evaluation.verify": (["none"], ["strict", "counts"]),
    "evaluation.protocol": (["median"], ["paper", "mteb"]),
    "evaluation.dev_every_n_steps": (["0"], ["1"]),
    "probe.name": (["svm"], ["logistic", "senteval"]),
    "probe.num_folds": (["1", "0"], ["2", "10"]),
    "evaluation.tokens_per_batch": (["0"], ["1"]),
    "num_trials": (["0"], ["1"]),
    "resume": (["always"], ["auto", "never", "adapt"]),
    "seed": (["-1", "4294967296"], ["0", "4294967295"]),
    "run_name": (["a/b", "..", ".", "/tmp/a"], ["first", "2024-01-01_12.30"]),
}
# The same for groups and keys that only commands have, by what they are checked with.
COMMAND_RANGES: dict[str, tuple[str, list[str], list[str]]] = {
    "console.format": ("results", ["xml"], ["text", "json"]),
    "port": ("demo", ["-1", "65536"], ["0", "65535"]),
    "max_compared": ("demo", ["1"], ["2"]),
    "max_listed": ("demo", ["0"], ["1"]),
    "max_characters": ("demo", ["0", "200001"], ["1", "200000"]),
    "max_upload_bytes": ("demo", ["0"], ["1"]),
    "num_words": ("demo", ["0"], ["1"]),
    "profile.what": ("profile", ["eval"], ["train", "encode"]),
    "profile.num_steps": ("profile", ["0"], ["1"]),
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
    "devices": ("evaluate", ["0"], ["1"]),
    "plan.question": ("plan", ["why"], ["strategy", "models"]),
    "plan.sentence_tokens": ("plan", ["0"], ["1"]),
    "plan.texts_per_example": ("plan", ["0"], ["2"]),
    "hardware.memory_gib": ("plan", ["0"], ["1"]),
    "hardware.floor_gib": ("plan", ["-1"], ["0"]),
    "hardware.bf16_tflops": ("plan", ["0"], ["1"]),
    "hardware.fp32_tflops": ("plan", ["0"], ["1"]),
    "hardware.link_gb_per_second": ("plan", ["0"], ["1"]),
    "hardware.network_gb_per_second": ("plan", ["0"], ["1"]),
    "hardware.host_memory_gib": ("plan", ["0"], ["1"]),
    "hardware.kind": ("plan", ["tpu"], ["cuda", "cpu", "local"]),
    "columns": ("results", ["all"], ["averages", "tasks"]),
}
REFUSED = [(key, value) for key, (refused, _) in RANGES.items() for value in refused]


@pytest.fixture(scope="module")
def set_key() -> Callable[[str, str], TrainConfig]:
    """Changes one key of a config that was composed once: composing is the slow part."""
    base = compose_raw("train", "debug=tiny")

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
    names = {name for name, _, _ in COMMAND_RANGES.values()}
    bases = {name: compose_raw(name, *NAMES.get(name, [])) for name in names}

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
