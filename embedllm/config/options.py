"""One option of a config group, read without composing a whole configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from embedllm.errors import ConfigError
from embedllm.program import conf_dir

_T = TypeVar("_T")

CONF_DIR: Final = conf_dir()


def default_cache_dir() -> Path:
    """Returns EMBEDLLM_CACHE_DIR, default ~/.cache/embedllm."""
    return Path(os.environ.get("EMBEDLLM_CACHE_DIR") or Path.home() / ".cache" / "embedllm")


def option_names(group: str) -> list[str]:
    """Returns the options of a group, those in folders included: `searched/smollm2-135m`."""
    folder = CONF_DIR / group
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def read_option(group: str, name: str, schema: type[_T]) -> _T:
    """Returns what `conf/<group>/<name>.yaml` says, checked by its dataclass.

    The options that its defaults list names come first, as in Hydra.

    Raises:
        ConfigError: There is no such option, or it leaves a value open.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if name not in option_names(group):
        raise ConfigError(f"{group}={name} is not known\nallowed: {', '.join(option_names(group))}")
    try:
        values = OmegaConf.merge(OmegaConf.structured(schema), *_layers(group, name))
        return cast(_T, OmegaConf.to_object(values))
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{group}={name} cannot be used by its name alone: {reason}") from error


def _layers(group: str, name: str) -> list[Any]:
    from omegaconf import DictConfig, OmegaConf

    values = cast(DictConfig, OmegaConf.load(CONF_DIR / group / f"{name}.yaml"))
    bases = values.pop("defaults", [])
    return [layer for base in bases if base != "_self_" for layer in _layers(group, base)] + [
        values
    ]
