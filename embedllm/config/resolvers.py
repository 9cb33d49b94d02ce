"""What stands behind `${...}` in the configuration files, but for what names runs and sweeps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf.resolvers import oc

from embedllm.config import checks
from embedllm.config.options import default_cache_dir
from embedllm.secrets import refuse_secrets


def environment_value(name: str, *default: Any) -> str | None:
    """Resolver `${oc.env:...}`: OmegaConf's own, but for keys; Hydra would name folders by them.

    Raises:
        ConfigError: The variable holds a key or a URL with a password.
    """
    value: str | None = oc.env(name, *default)
    refuse_secrets([(f"${{oc.env:{name}}}", value)])
    return value


def data_dir(relative: str = "") -> str | None:
    """Resolver `${data_dir:...}`: a path under EMBEDLLM_DATA_DIR, null when that is unset."""
    root = os.environ.get("EMBEDLLM_DATA_DIR")
    return str(Path(root) / relative) if root else None


def cache_dir() -> str:
    """Resolver `${cache_dir:}`: EMBEDLLM_CACHE_DIR, default ~/.cache/embedllm."""
    return str(default_cache_dir())


def plain_name(name: object) -> str:
    """Resolver `${plain_name:...}`: a run's name, before Hydra makes a folder of it."""
    checks.plain_name("run_name", "" if name is None else str(name))
    return str(name)
