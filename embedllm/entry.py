"""Entry points: compose the configuration, call the task, turn user errors into messages.

Hydra lives here and nowhere else in the package, so everything below works from plain typed
objects.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from embedllm import multirun, program
from embedllm.config import (
    DemoConfig,
    DemonstrationsConfig,
    EncodeConfig,
    EvaluateConfig,
    ExportConfig,
    LayersConfig,
    PlanConfig,
    ProfileConfig,
    ReportConfig,
    ResultsConfig,
    SearchConfig,
    TrainConfig,
    flatten,
    resolvers,
)
from embedllm.config.options import CONF_DIR, option_names
from embedllm.errors import INTERRUPTED, ConfigError, EmbedllmError, PreemptedError, earlier_error
from embedllm.invocation import Invocation
from embedllm.log import be_quiet, get_logger, process_number, quiet_loggers
from embedllm.preemption import leave, stop_requests
from embedllm.run_state import failures_since, recorded_failure, to_job_error
from embedllm.secrets import redact, refuse_secrets

__all__ = ["CONF_DIR", "Invocation", "explain", "register", "run", "to_typed"]

_log = get_logger(__name__)

_SCHEMAS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "search": SearchConfig,
    "demonstrations": DemonstrationsConfig,
    "layers": LayersConfig,
    "encode": EncodeConfig,
    "export": ExportConfig,
    "profile": ProfileConfig,
    "plan": PlanConfig,
    "results": ResultsConfig,
    "report": ReportConfig,
    "demo": DemoConfig,
}
# What a command's key is called on its command line, where Hydra has a group of that name.
_SHORT_KEYS = {
    "report": ("sweep", "sweep_folder"),
    "demo": ("adapter", "adapter_path"),
    "export": ("adapter", "adapter_path"),
}


def with_full_keys(config_name: str, overrides: list[str]) -> list[str]:
    """Returns the command line of a command with its short keys written out."""
    short, key = _SHORT_KEYS.get(config_name, ("", ""))
    return [re.sub(f"^{short}=", f"{key}=", o) for o in overrides] if short else overrides


def register(*config_names: str) -> None:
    """Registers the schemas and resolvers that the files in `conf/` refer to. Idempotent.

    Args:
        config_names: Root configs whose schema is registered, default all; each takes its time.
    """
    # Hydra copies its configuration sources, and with them this store, for every group that its
    # help lists, which takes seconds. There is one store, and what is loaded from it is a copy.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    for name in config_names or _SCHEMAS:
        _store_schema(name)
    OmegaConf.register_new_resolver("oc.env", resolvers.environment_value, replace=True)
    for resolver in (
        resolvers.data_dir,
        resolvers.cache_dir,
        resolvers.plain_name,
        multirun.run_name,
        multirun.run_folder,
        multirun.sweep_dir,
        multirun.study_storage,
        multirun.trials_left,
        multirun.num_trials,
        program.as_called,
    ):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


@cache
def _store_schema(config_name: str) -> None:
    ConfigStore.instance().store(name=f"{config_name}_schema", node=_SCHEMAS[config_name])


def run(config_name: str, task: Callable[[Any, Invocation], Any]) -> None:
    """Composes `conf/<config_name>.yaml` with the command line and calls the task.

    Args:
        config_name: A root config: `train`, `evaluate` or a command of `cli`.
        task: Gets the typed config and how it was called; in a sweep that searches it returns
            what is maximised.

    Leaves the process with exit code 2 and one message on stderr for an error that the user
    can mend, 130 after Ctrl-C, 75 after SIGTERM or SIGUSR1 (`preemption`). Any other exception is
    a bug and keeps its traceback.
    """
    sys.excepthook = _show_bug
    command = _Command(config_name, sys.argv[1:])
    with stop_requests():
        try:
            _run(config_name, task, command)
        except PreemptedError as error:
            leave(error, command=str(command))


def _show_bug(*error: Any) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(*error))))


@dataclass
class _Command:
    """The command line that goes on with a run."""

    name: str
    words: list[str]
    run_name: str | None = None

    def __str__(self) -> str:
        is_named = self.run_name is None or any(w.startswith("run_name=") for w in self.words)
        name = [] if is_named else [f"run_name={self.run_name}"]
        return shlex.join([*program.words(self.name), *self.words, *name])


def _run(config_name: str, task: Callable[[Any, Invocation], Any], command: _Command) -> None:
    register(config_name)
    # Hydra would print its own shortened traceback and exit; the messages are made here.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # Three more attempts against an unreachable hub help nobody; one answer in time does.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")

    if process_number() > 0:
        # One rank keeps the files of a run; the others speak on the console alone.
        sys.argv += ["hydra.output_subdir=null", "hydra/job_logging=console"]
    is_training = config_name == "train"
    is_composed = False
    sweep_dirs: set[Path] = set()

    def note_sweep_dir(output_dir: str, sweep_name: str | None) -> str:
        folder = multirun.sweep_dir(output_dir, sweep_name)
        sweep_dirs.add(Path(folder))
        return folder

    OmegaConf.register_new_resolver("sweep_dir", note_sweep_dir, replace=True)

    def job(config: DictConfig) -> Any:
        nonlocal is_composed
        is_composed = True
        # Before anything loud is imported.
        quiet_loggers()
        hydra_config = HydraConfig.get()
        is_sweep = hydra_config.mode == RunMode.MULTIRUN
        # A repeated sweep finds its runs by itself.
        command.run_name = None if is_sweep else config.get("run_name")
        folder = Path(hydra_config.runtime.output_dir)
        if folder.is_relative_to(Path.cwd()):
            folder = folder.relative_to(Path.cwd())
        choices = hydra_config.runtime.choices
        # As they were written: reading them one by one would put values for `${...}`.
        invocation = Invocation(
            cast("list[str]", OmegaConf.to_container(hydra_config.overrides.task)),
            folder,
            conf_dir=CONF_DIR,
            choices={str(k): str(v) for k, v in choices.items() if v is not None},
        )
        try:
            with stop_requests() as is_alone:
                return _call(task, config, invocation, command=command, is_alone=is_alone)
        except EmbedllmError as error:
            # Hydra prints a line of its own about a failed job, then goes on with a sweep's next.
            if is_sweep:
                raise
            _leave_with(error)
        except SystemExit as error:
            # The processes of a job; Hydra goes on after exceptions alone.
            if not is_sweep or error.code == PreemptedError.exit_code:
                raise
            raise to_job_error(error, folder) from error
        except Exception:
            # Hydra shows the traceback of the first failed job alone.
            if is_sweep:
                _log.exception("%s failed", folder)
            raise

    main = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(job)
    try:
        # Hydra writes the command line into the run's folder before it calls the job.
        refuse_secrets((word.partition("=")[0], word) for word in sys.argv[1:])
        if is_training:
            sys.argv[1:] = multirun.name_sweep(sys.argv[1:])
        if config_name in _SHORT_KEYS:
            # Hydra takes the name of a folder in conf/ for a group, never for a key.
            sys.argv[1:] = with_full_keys(config_name, sys.argv[1:])
        with multirun.StudyClaims():
            _run_all(main, sweep_dirs)
    except EmbedllmError as error:
        _leave_with(error)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(explain(error, _SCHEMAS[config_name]), ConfigError.exit_code)
    except OSError as error:
        # Hydra makes the run's folder before it calls the job.
        if is_composed:
            raise
        message = f"the run folder cannot be written: {error}; set paths.output_dir and run_name"
        _leave(message, ConfigError.exit_code)
    except ValueError as error:
        # Hydra refuses some malformed overrides (a group set to a number) with a bare ValueError.
        if is_composed:
            raise
        _leave(f"the command line is malformed: {error}", ConfigError.exit_code)
    except KeyboardInterrupt:
        has_run = any(field.name == "run_name" for field in fields(_SCHEMAS[config_name]))
        hint = "; the same command with the same run_name goes on from here" if has_run else ""
        _leave(f"interrupted{hint}", INTERRUPTED)


def _run_all(main: Callable[[], Any], sweep_dirs: set[Path]) -> None:
    """Runs the job or the jobs; of a sweep all, then leaves with the reasons of those that failed.

    Args:
        main: Hydra's function.
        sweep_dirs: Gets the folder of a sweep, whatever launches its jobs.
    """
    start = datetime.now(UTC)
    try:
        main()
    except Exception:
        _leave_for_failed_jobs(sweep_dirs, start)
        raise
    _leave_for_failed_jobs(sweep_dirs, start)


def _leave_for_failed_jobs(sweep_dirs: set[Path], start: datetime) -> None:
    failures = [found for folder in sweep_dirs for found in failures_since(folder, start)]
    if not failures:
        return
    number = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
    lines = [f"{number} of the sweep failed; the same command tries again"]
    lines += [f"{folder}: {failure.message}" for folder, failure in failures]
    codes = {failure.exit_code for _, failure in failures}
    _leave("\n".join(lines), codes.pop() if len(codes) == 1 else 1)


def _call(
    task: Callable[[Any, Invocation], Any],
    config: DictConfig,
    invocation: Invocation,
    *,
    command: _Command,
    is_alone: bool,
) -> Any:
    """Calls the task; `is_alone` in a process of a launcher's, which has no `run` around it."""
    is_training = command.name == "train"
    try:
        with recorded_failure(invocation.folder) if is_training else nullcontext():
            typed = to_typed(config)
            if typed.console.quiet:
                be_quiet()
            return task(typed, replace(invocation, console=typed.console))
    except PreemptedError as error:
        if not is_alone:
            raise
        words = [*invocation.overrides, f"hydra.run.dir={invocation.folder}"]
        leave(error, command=str(replace(command, words=words)))


def to_typed(config: DictConfig) -> Any:
    """Returns the dataclass behind a composed config, with values checked.

    Raises:
        ConfigError: A mandatory value is missing, a value is out of range, or a key was added
            with a plus sign where only the dataclass's own are allowed.
    """
    _refuse_added_keys(config)
    try:
        values = OmegaConf.to_object(config)
        plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
        refuse_secrets(flatten(plain).items())
        return values
    except OmegaConfBaseException as error:
        schema = OmegaConf.get_type(config)
        raise ConfigError(explain(error, schema if isinstance(schema, type) else dict)) from error


def explain(error: Exception, schema: type[Any]) -> str:
    """Returns a message that names the key and lists what is allowed there.

    Args:
        error: What Hydra or OmegaConf raised while composing.
        schema: The root dataclass.
    """
    if (own := earlier_error(error)) is not None:
        # One of our resolvers raised it, and said all but the key.
        key = getattr(error, "full_key", None)
        return f"{key}: {own}" if key else str(own)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.partition("/")
        if error.missing_cfg_file == "hydra/sweeper/optuna":
            return "this sweep searches by Optuna; pip install 'embedllm[optuna]' brings it"
        # Hydra's own groups come with plug-ins too, so their message is left to Hydra.
        if group != "hydra" and (options := option_names(group)):
            return _describe_unknown_option(group, option, options)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error).split("\nConfig search path:")[0].strip()
    if not isinstance(cause, OmegaConfBaseException):
        return text
    reason = str(cause.msg or cause).splitlines()[0] if cause.msg else str(cause)
    key = str(cause.full_key or cause.key or "")
    owner = cause.object_type if is_dataclass(cause.object_type) else None
    if owner is None and key and "." not in key:
        owner = schema
    if "is not in struct" in reason and owner is None:
        reason += f"; write +{key}=... to add it"
    if "not in" not in reason or owner is None:
        return f"{text.splitlines()[0]}\n{key or 'config'}: {reason}"
    return _describe_unknown_key(key, owner)


def _refuse_added_keys(config: DictConfig, place: str = "") -> None:
    """Raises for a key that is no field; `+trainer.lr=1` would be accepted and have no effect."""
    schema = OmegaConf.get_type(config)
    known = {f.name for f in fields(schema)} if is_dataclass(schema) else None
    for key in map(str, config):
        if known is not None and key not in known:
            raise ConfigError(_describe_unknown_key(f"{place}{key}", schema))
        if not (OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key)):
            child = config[key]
            if isinstance(child, DictConfig):
                _refuse_added_keys(child, f"{place}{key}.")


def _describe_unknown_key(key: str, owner: Any) -> str:
    allowed = [f.name for f in fields(owner)]
    near = difflib.get_close_matches(key.rpartition(".")[2], allowed, n=1)
    place = key.rpartition(".")[0] or "the top level"
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown key {key!r}{hint}\nallowed at {place}: {', '.join(allowed)}"


def _describe_unknown_option(group: str, option: str, options: list[str]) -> str:
    near = difflib.get_close_matches(option, options, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{group}={option} is not known{hint}\nallowed: {', '.join(options)}"


def _leave_with(error: EmbedllmError) -> None:
    """Ends the process; what rank 0 says, or has said, the others do not repeat."""
    rank = process_number()
    if rank and error.is_said:
        sys.exit(error.exit_code)
    _leave(f"rank {rank}: {error}" if rank else str(error), error.exit_code)


def _leave(message: str, code: int) -> None:
    sys.stderr.write(f"error: {redact(message)}\n")
    sys.exit(code)
