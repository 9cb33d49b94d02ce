"""Sweeps: one command, many runs, and the same folders when the command is repeated.

A run of a sweep is in `outputs/<sweep_name>/<run_name>`. Its name is made from its configuration
alone, so a run is found again whoever started it (a sweep, a longer sweep, a job array, a W&B
agent), and two configurations never share a folder. A key that changes no result (`strategy`,
`trainer.devices`) counts where it is swept: who sweeps it wants to compare its values.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from embedllm.config import fingerprint, flatten, is_in_identity, training_identity_of
from embedllm.config.checks import plain_name
from embedllm.config.options import CONF_DIR
from embedllm.errors import ConfigError
from embedllm.files import to_plain_name
from embedllm.ranks import default_run_name

_MULTIRUN_FLAGS: Final = ("-m", "--multirun", "hydra.mode=MULTIRUN")
_NUM_DIGITS: Final = 12
_MAX_MODEL_CHARACTERS: Final = 40
_NAMES: Final = ("run_name", "sweep_name", "swept_keys")


def name_sweep(arguments: Sequence[str]) -> list[str]:
    """Returns the command line, of a sweep with its name and the keys that tell its runs apart.

    The name is that of the file in `conf/sweep`. Without one it is made from the keys that vary
    and from what stays the same, so a repeated command, also one with more values, finds
    its folder. What the command line says itself stays as it is.

    Args:
        arguments: The command line without the program.

    Raises:
        ConfigError: A sweep was given the name of a single run.
    """
    options = [a for a in arguments if not a.startswith("-") and "=" in a]
    given = {key.lstrip("+"): value for key, _, value in (o.partition("=") for o in options)}
    chosen = given.get("sweep", "null")
    is_sweep = any(a in _MULTIRUN_FLAGS for a in arguments) or chosen != "null"
    if not is_sweep or given.get("hydra.mode") == "RUN":
        return list(arguments)
    try:
        parsed = OverridesParser.create().parse_overrides(options)
    except HydraException:
        # Hydra will say what is wrong with it.
        return list(arguments)
    swept = {o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()}
    if "run_name" in given and "run_name" not in swept:
        raise ConfigError(
            f"run_name={given['run_name']} is the name of one run; give a sweep sweep_name=... "
            "and leave the names of its runs to their configurations"
        )
    added = []
    if "sweep_name" not in given:
        name = chosen if chosen != "null" else _name_by_keys(options, swept)
        added.append(f"sweep_name={to_plain_name(name)}")
    telling = sorted(filter(_tells_apart, swept | _keys_of_file(chosen)))
    if telling and "swept_keys" not in given:
        added.append(f"swept_keys=[{','.join(telling)}]")
    # Hydra refuses a command line with a flag between two overrides.
    place = arguments.index(options[-1]) + 1 if options else len(arguments)
    return [*arguments[:place], *added, *arguments[place:]]


def _name_by_keys(options: Sequence[str], swept: set[str]) -> str:
    fixed = sorted(o for o in options if not _is_left_out(o.lstrip("+").partition("=")[0], swept))
    keys = sorted(key.rpartition(".")[2].rpartition("/")[2] for key in swept)
    return "-".join([*keys, fingerprint({"fixed": fixed})[:8]])


def _is_left_out(key: str, swept: set[str]) -> bool:
    return key in swept or key.startswith("hydra") or not is_in_identity(key)


def _keys_of_file(sweep: str) -> set[str]:
    """Returns the keys that a file of `conf/sweep` varies."""
    path = CONF_DIR / "sweep" / f"{sweep}.yaml"
    if not path.is_file():
        return set()
    params = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params")
    return {str(key).lstrip("+") for key in params or ()}


def _tells_apart(key: str) -> bool:
    return key not in _NAMES and not is_in_identity(key)


def run_name(sweep_name: str | None = None, *, _root_: DictConfig) -> str:
    """Resolver `${run_name:sweep_name}`: the name of a run that was given none.

    Outside a sweep it is the time of the start or the number of the job, for all ranks.
    """
    if sweep_name is None:
        return default_run_name()
    values: dict[str, Any] = {}
    # What is no part of the identity may refer to the name that is being made.
    for key in (str(key) for key in _root_ if is_in_identity(str(key)) and key != "hydra"):
        node = _root_[key]
        is_group = OmegaConf.is_config(node)
        values[key] = OmegaConf.to_container(node, resolve=True) if is_group else node
    model = to_plain_name(Path(str(values["model"]["name"])).name)[:_MAX_MODEL_CHARACTERS]
    digest = fingerprint(training_identity_of(values) | _swept_values(_root_))[:_NUM_DIGITS]
    return f"{model}-seed{values['seed']}-{digest}"


def _swept_values(root: DictConfig) -> dict[str, Any]:
    """Returns the values of the swept keys that are no part of the identity, unresolved."""
    keys = tuple(filter(_tells_apart, root.swept_keys))
    found: dict[str, Any] = {}
    for group in {key.partition(".")[0] for key in keys}:
        node = root[group]
        # They may refer to the name that is being made.
        plain = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
        flat = flatten({group: plain})
        found |= {k: v for k, v in flat.items() if f"{k}.".startswith(tuple(f"{s}." for s in keys))}
    return {"swept": found} if found else {}


def run_folder(output_dir: str, sweep_name: str | None, name: str) -> str:
    """Resolver `${run_folder:...}`: the folder of a run, in that of its sweep if it has one.

    Raises:
        ConfigError: A name leads elsewhere; Hydra makes the folder before anything else looks.
    """
    plain_name("run_name", "" if name is None else str(name))
    if sweep_name is not None:
        plain_name("sweep_name", str(sweep_name))
    return str(Path(output_dir, sweep_name or "", name))


def sweep_dir(output_dir: str, sweep_name: str | None) -> str:
    """Resolver `${sweep_dir:...}`: the folder of a sweep."""
    if sweep_name is not None:
        plain_name("sweep_name", str(sweep_name))
    return str(Path(output_dir, sweep_name or "sweep"))


class StudyClaims:
    """Keeps other processes out of the studies whose trials this one counts, in a `with` block.

    They would give up the trials that run here. In the block `${trials_left:...}` raises
    ConfigError when another process searches in its folder.
    """

    def __init__(self) -> None:
        self._locks: dict[str, FileLock] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Resolvers travel with a job to where it runs; what is claimed stays here.
        return {"_locks": {}}

    def __enter__(self) -> None:
        OmegaConf.register_new_resolver("trials_left", self.trials_left, replace=True)

    def __exit__(self, *_: object) -> None:
        for lock in self._locks.values():
            lock.release()

    def trials_left(self, num_trials: int, name: str, folder: str) -> int:
        """Does what the function of this name does, in a folder of its own."""
        if folder not in self._locks:
            Path(folder).mkdir(parents=True, exist_ok=True)
            lock = FileLock(Path(folder) / "study.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise ConfigError(
                    f"{folder} is in use by another search; wait for it or choose another "
                    "sweep_name"
                ) from error
            self._locks[folder] = lock
        return trials_left(num_trials, name, folder)


def study_storage(folder: str) -> str:
    """Resolver `${study_storage:folder}`: the file of a sweep's Optuna study, as a URL."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(folder) / 'study.db'}"


def trials_left(num_trials: int, name: str, folder: str) -> int:
    """Resolver `${trials_left:...}`: how many trials of an Optuna study are still to be done.

    Those that were interrupted or failed in an earlier call come first: they are put back in line.

    Args:
        num_trials: Trials in all.
        name: Name of the study.
        folder: Of the sweep.
    """
    trials = _read_trials(name, folder)
    if not trials:
        return num_trials
    from optuna.trial import TrialState

    finished = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    waiting = [
        trial.system_attrs.get("fixed_params", {})
        for trial in trials
        if trial.state == TrialState.WAITING
    ]
    study = _load_study(name, folder)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        is_broken = trial.state in (TrialState.RUNNING, TrialState.FAIL)
        if is_broken and trial.params and trial.params not in [*finished, *waiting]:
            with warnings.catch_warnings():
                # Optuna 2 calls it experimental; Optuna 3 has it as it is.
                warnings.simplefilter("ignore")
                study.enqueue_trial(trial.params)
            waiting.append(trial.params)
    return max(0, num_trials - len(finished))


def num_trials(name: str, folder: str) -> int:
    """Resolver `${num_trials:...}`: how many trials a study has so far.

    A sampler that is seeded with it does not draw again what it drew before.
    """
    return len(_read_trials(name, folder))


def _read_trials(name: str, folder: str) -> list[Any]:
    if not (Path(folder) / "study.db").is_file():
        return []
    try:
        trials: list[Any] = _load_study(name, folder).trials
    except KeyError:
        # A start that was killed before it made the study.
        return []
    return trials


def _load_study(name: str, folder: str) -> Any:
    import optuna

    return optuna.load_study(study_name=name, storage=study_storage(folder))
