"""Keys and tokens of the environment: they never reach a file, a log line or a message."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from embedllm.errors import ConfigError

_NAME: Final = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.I)
# Shorter values are words like `true`, and would be found everywhere.
_MIN_CHARACTERS: Final = 8
_URL_WITH_PASSWORD: Final = re.compile(r"(\w+://)[^\s/@:]*:[^\s/@]+@")
_HIDDEN: Final = "***"


def redact(text: str) -> str:
    """Returns a text with keys of the environment, and passwords in URLs, made unreadable."""
    text = _URL_WITH_PASSWORD.sub(rf"\g<1>{_HIDDEN}@", text)
    for value in _secrets():
        text = text.replace(value, _HIDDEN)
    return text


def refuse_secrets(values: Iterable[tuple[str, Any]]) -> None:
    """Raises for a configuration that holds a key: it is stored with every run and its results.

    Args:
        values: Dotted keys with their values, resolved or as they were written.

    Raises:
        ConfigError: A value holds a key of the environment or a URL with a password.
    """
    secrets = _secrets()
    for key, value in values:
        text = str(value)
        found = next((name for secret, name in secrets.items() if secret in text), None)
        if found is not None:
            raise ConfigError(
                f"{key} holds the value of {found}, and the configuration is stored with every "
                "run; leave it out: the libraries read keys from the environment themselves"
            )
        if _URL_WITH_PASSWORD.search(text):
            raise ConfigError(
                f"{key} is a URL with a password, and the configuration is stored with every run; "
                "leave the password out"
            )


def _secrets() -> dict[str, str]:
    """Returns where each secret value stands, longest first, so that none is left in part."""
    found = {
        value: f"the environment variable {name}"
        for name, value in os.environ.items()
        if _NAME.search(name)
    }
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    for host, password in _saved_passwords(path).items():
        found.setdefault(password, f"the password of {host} in the netrc file")
    if token := _hub_token():
        found.setdefault(token, "the token that `hf auth login` saved")
    long_enough = {k: v for k, v in found.items() if len(k) >= _MIN_CHARACTERS}
    return dict(sorted(long_enough.items(), key=lambda item: -len(item[0])))


@lru_cache(maxsize=1)
def _saved_passwords(path: Path) -> dict[str, str]:
    """Returns the passwords of a netrc file by host; `wandb login` leaves its key there."""
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, ValueError, SyntaxError):
        return {}
    return {host: password for host, (_, _, password) in hosts.items() if password}


@lru_cache(maxsize=1)
def _read_once(path: Path) -> str:
    """Returns the content of a small file, empty without one; every log line asks for it."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _hub_token() -> str:
    """Returns the token of the hub's file; the hub's own function may renew it over the network."""
    from huggingface_hub import constants

    return _read_once(Path(constants.HF_TOKEN_PATH))
