"""What the command line answers: one message and exit code 2 for whatever a user can mend."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hydra.errors import MissingConfigException
from tiny_runs import restored_logging, run_script, script_environment

from embedllm.config import EvaluateConfig, TrainConfig, TrainerConfig
from embedllm.entry import CONF_DIR, Invocation, explain, run
from embedllm.errors import CheckpointError, ConfigError

MAX_HELP_SECONDS = 3.0


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    code: int | str | None
    out: str
    err: str
    calls: list[tuple[Any, Invocation]]


Call = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes what an entry point does to its process: variables and logging."""
    for name in ("HYDRA_FULL_ERROR", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("EMBEDLLM_DATA_DIR", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with restored_logging():
        yield


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Call:
    """Calls an entry point in this process; its task notes what it is given, or does more."""

    def call_entry(
        *arguments: str,
        config_name: str = "train",
        task: Callable[[Any, Invocation], Any] | None = None,
    ) -> Answer:
        calls: list[tuple[Any, Invocation]] = []

        def note(config: Any, invocation: Invocation) -> Any:
            calls.append((config, invocation))
            return None if task is None else task(config, invocation)

        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        is_placed = "--help" in arguments or any("output_dir" in a for a in arguments)
        defaults = [] if is_placed else [f"paths.output_dir={tmp_path}"]
        monkeypatch.setattr(sys, "argv", [f"{config_name}.py", *arguments, *defaults])
        code: int | str | None = 0
        try:
            run(config_name, note)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err, calls)

    return call_entry


def _assert_one_message(answer: Answer, *parts: str, num_calls: int = 0) -> None:
    assert answer.code == 2
    assert answer.err.count("error: ") == 1
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert len(answer.calls) == num_calls
    for part in parts:
        assert part in answer.err, answer.err


# --- Messages about the command line -------------------------------------------------------------


def test_unknown_key(call: Call) -> None:
    answer = call("runn_name=a")
    names = ", ".join(f.name for f in fields(TrainConfig))
    _assert_one_message(
        answer,
        "unknown key 'runn_name'; did you mean run_name?",
        f"allowed at the top level: {names}\n",
    )


def test_unknown_nested_key(call: Call) -> None:
    answer = call("trainer.learnin_rate=1")
    names = ", ".join(f.name for f in fields(TrainerConfig))
    _assert_one_message(
        answer,
        "unknown key 'trainer.learnin_rate'; did you mean learning_rate?",
        f"allowed at trainer: {names}\n",
    )


def test_unknown_key_like_no_other(call: Call) -> None:
    answer = call("data.columns.zzz=1")
    _assert_one_message(answer, "unknown key 'data.columns.zzz'\nallowed at data.columns: anchor,")


def test_unknown_key_with_a_plus_sign(call: Call) -> None:
    answer = call("+trainer.lr=1")
    _assert_one_message(answer, "unknown key 'trainer.lr'\nallowed at trainer: max_epochs,")


def test_unknown_key_of_evaluation(call: Call) -> None:
    answer = call("adapter_pth=x", config_name="evaluate")
    names = ", ".join(f.name for f in fields(EvaluateConfig))
    _assert_one_message(
        answer, "unknown key 'adapter_pth'; did you mean adapter_path?", f"level: {names}\n"
    )


def test_a_training_group_in_evaluation(call: Call) -> None:
    _assert_one_message(call("trainer=gpu", config_name="evaluate"), "trainer")


def test_optional_key_without_its_plus_sign(call: Call) -> None:
    answer = call("adapter.options.use_rslora=true")
    _assert_one_message(answer, "'use_rslora'", "write +adapter.options.use_rslora=... to add it")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.max_steps=many", ("trainer.max_steps", "'many'", "Integer")),
        ("trainer.max_steps=1.5", ("trainer.max_steps", "1.5", "Integer")),
        ("data.drop_last=perhaps", ("data.drop_last", "'perhaps'")),
        ("seed=abc", ("seed", "'abc'", "Integer")),
        ("model.dtype=null", ("model.dtype", "not Optional")),
        ("evaluation.tasks=all", ("evaluation.tasks", "all")),
        ("prompt.demonstrations=[1]", ("prompt.demonstrations", "int")),
    ],
)
def test_wrong_type(override: str, parts: tuple[str, ...], call: Call) -> None:
    _assert_one_message(call(override), *parts)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=opt-7b", "model=opt-7b is not known; did you mean opt-"),
        ("adapter=qlora", "did you mean lora?\nallowed: dora, full, ia3, lora, vera\n"),
        (
            "strategy=dp",
            "strategy=dp is not known; did you mean ddp?\nallowed: auto, ddp, deepspeed_",
        ),
        # Groups of which nothing is chosen by default.
        (
            "experiment=smollm-nli",
            "did you mean smollm2-nli?\nallowed: paper/opt-1.3b, paper/opt-1",
        ),
        (
            "experiment=paper/opt-7b",
            "experiment=paper/opt-7b is not known; did you mean paper/opt-",
        ),
        ("debug=small", "debug=small is not known\nallowed: tiny\n"),
        # Not a group of this project, so the message is Hydra's own.
        ("hydra/launcher=cloud", "Could not find 'hydra/launcher/cloud'"),
    ],
)
def test_unknown_option_of_a_group(override: str, message: str, call: Call) -> None:
    answer = call(override)
    _assert_one_message(answer, message)
    assert "search path" not in answer.err


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.max_steps=0", ("trainer.max_steps=0 is out of range; it must be at least 1",)),
        ("trainer.precision=fp8", ("trainer.precision='fp8' is not known; allowed: 32-true, ",)),
        ("loss.temperature=0", ("loss.temperature=0.0 is out of range", "greater than 0")),
        ("run_name=a/b", ("run_name='a/b' must be a plain folder name",)),
        ("seed=-1", ("seed=-1 is out of range",)),
    ],
)
def test_value_out_of_range(override: str, parts: tuple[str, ...], call: Call) -> None:
    _assert_one_message(call(override), *parts)


def test_impossible_combination(call: Call) -> None:
    answer = call("adapter=full", "model.dtype=float16")
    _assert_one_message(answer, "adapter=full with model.dtype=float16", "use model.dtype=float32")


def test_nli_data_without_a_folder(call: Call) -> None:
    _assert_one_message(call("data=nli"), "data.path=FILE_OR_HUB_NAME", "EMBEDLLM_DATA_DIR")


def test_several_processes(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    _assert_one_message(call(), "strategy=single was started with 2 processes (WORLD_SIZE)")


def test_a_model_without_a_name(call: Call) -> None:
    _assert_one_message(call("model=huggingface"), "model.name")
    _assert_one_message(call("model=huggingface", config_name="evaluate"), "model.name")


@pytest.mark.parametrize(
    "override",
    ["model", "=x", "a=b=c", "[a", "trainer=5", "~model"],
)
def test_malformed_override(override: str, call: Call) -> None:
    _assert_one_message(call(override))


def test_an_option_that_does_not_exist(call: Call) -> None:
    answer = call("--fast")
    assert answer.code == 2
    assert "unrecognized arguments: --fast" in answer.err
    assert "Traceback" not in answer.err


# --- What the task gets and how it can end -------------------------------------------------------


def test_the_task_gets_typed_values_overrides_and_folder(call: Call, tmp_path: Path) -> None:
    answer = call("run_name=first", "seed=7", "trainer.learning_rate=1e-4")
    assert (answer.code, answer.err) == (0, "")
    ((config, invocation),) = answer.calls
    assert isinstance(config, TrainConfig)
    assert (config.seed, config.trainer.learning_rate) == (7, 1e-4)
    assert invocation.overrides[:-1] == ["run_name=first", "seed=7", "trainer.learning_rate=1e-4"]
    assert invocation.folder == tmp_path / "first"
    assert (tmp_path / "first" / ".hydra" / "overrides.yaml").is_file()


def test_the_folder_is_relative_to_the_working_folder(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ((_, invocation),) = call("run_name=first").calls
    assert invocation.folder == Path("first")


def _raise(error: BaseException) -> Callable[[Any, Invocation], None]:
    def task(config: Any, invocation: Invocation) -> None:
        raise error

    return task


def test_an_error_of_the_user_in_the_task(call: Call) -> None:
    answer = call("run_name=a", task=_raise(CheckpointError("two\nlines")))
    _assert_one_message(answer, num_calls=1)
    assert answer.err == "error: two\nlines\n"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), KeyError("a bug")])
def test_any_other_error_keeps_its_traceback(error: Exception, call: Call) -> None:
    with pytest.raises(type(error), match="a bug"):
        call("run_name=a", task=_raise(error))


def test_ctrl_c(call: Call) -> None:
    answer = call("run_name=a", task=_raise(KeyboardInterrupt()))
    assert answer.code == 130
    expected = "error: interrupted; the same command with the same run_name goes on from here\n"
    assert answer.err == expected


def test_an_output_folder_that_is_a_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "first").write_text("not a folder")
    answer = call("run_name=first")
    _assert_one_message(answer, "the run folder cannot be written", "set paths.output_dir")
    answer = call(f"paths.output_dir={tmp_path}/first", "run_name=a")
    _assert_one_message(answer, "first", "set paths.output_dir")


def test_a_sweep_goes_on_after_a_failed_job(call: Call) -> None:
    def task(config: Any, invocation: Invocation) -> None:
        if config.seed == 1:
            raise ConfigError("not with seed 1")

    answer = call("--multirun", "sweep_name=sweep", "seed=1,2", task=task)
    assert answer.code == 2
    assert [config.seed for config, _ in answer.calls] == [1, 2]
    folders = [invocation.folder for _, invocation in answer.calls]
    assert [folder.name for folder in folders] == [config.run_name for config, _ in answer.calls]
    assert {folder.parent.name for folder in folders} == {"sweep"}
    head = "error: 1 run of the sweep failed; the same command tries again\n"
    assert answer.err.endswith(f"{head}{folders[0]}: not with seed 1\n")
    assert "Traceback" not in answer.err


def test_runs_that_differ_in_how_they_are_made_are_all_made(call: Call) -> None:
    answer = call(
        "--multirun", "debug=tiny", "strategy=single,ddp", "evaluation.tokens_per_batch=9"
    )
    assert answer.code == 0, answer.err
    assert [config.strategy.name for config, _ in answer.calls] == ["single", "ddp"]
    folders = [invocation.folder for _, invocation in answer.calls]
    assert [folder.name for folder in folders] == [config.run_name for config, _ in answer.calls]
    assert len(set(folders)) == 2


def test_a_second_search_in_one_folder(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "learning-rate"
    folder.mkdir()
    with FileLock(folder / "study.lock"):
        answer = call("sweep=learning-rate", "num_trials=1")
    message = "learning-rate is in use by another search; wait for it or choose another sweep_name"
    _assert_one_message(answer, f"error: {tmp_path}/{message}\n")
    assert not (folder / "study.db").exists()
    answer = call("sweep=learning-rate", "num_trials=1", task=lambda *_: 0.5)
    assert (answer.code, len(answer.calls)) == (0, 1), answer.err


def test_a_search_without_optuna_says_what_to_install() -> None:
    error = MissingConfigException("not found", missing_cfg_file="hydra/sweeper/optuna")
    assert "pip install 'embedllm[optuna]'" in explain(error, TrainConfig)


def test_a_value_that_refers_to_another_goes_on_as_it_was_written(call: Call) -> None:
    answer = call("debug=tiny", "logger.group=of-${seed}")
    [(config, invocation)] = answer.calls
    assert config.logger.group == "of-42"
    assert "logger.group=of-${seed}" in invocation.overrides


# --- Help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config_name", ["train", "evaluate"])
def test_help_names_groups_keys_and_exit_codes(config_name: str, call: Call) -> None:
    answer = call("--help", config_name=config_name)
    assert (answer.code, answer.err, answer.calls) == (0, "", [])
    schema = TrainConfig if config_name == "train" else EvaluateConfig
    groups = {path.name for path in CONF_DIR.iterdir() if path.is_dir()}
    assert groups & {f.name for f in fields(schema)} >= {"model", "prompt", "evaluation", "paths"}
    for field in fields(schema):
        assert re.search(rf"^{field.name}:", answer.out, re.MULTILINE), field.name
        if field.name in groups:
            options = re.search(rf"^{field.name}: (.+, )*[\w.-]+$", answer.out, re.MULTILINE)
            assert options is not None, field.name
    assert f"python {config_name}.py" in answer.out
    assert "Exit codes: 0 done, 1 a bug (traceback), 2 something to mend" in answer.out
    assert "130 Ctrl-C" in answer.out


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_is_quick_and_imports_no_torch(script: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_script("-X", "importtime", script, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert "Exit codes" in result.stdout
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "embedllm.entry" in modules
    heavy = {"torch", "transformers", "pytorch_lightning", "peft", "numpy", "wandb", "datasets"}
    assert not modules & heavy
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < MAX_HELP_SECONDS


def test_an_error_of_the_command_line_costs_no_import_of_torch() -> None:
    result = run_script(
        "-X",
        "importtime",
        "train.py",
        "trainer.max_steps=0",
        environment=script_environment(EMBEDLLM_DATA_DIR=None),
    )
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == [
        "error: trainer.max_steps=0 is out of range; it must be at least 1"
    ]
    assert "torch" not in {line.rpartition("|")[2].strip() for line in lines}
