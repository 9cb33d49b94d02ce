"""Questions to the Hugging Face hub that end in bounded time, whatever is at the other end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from embedllm.errors import ModelError
from embedllm.log import get_logger
from embedllm.secrets import redact

_T = TypeVar("_T")
_log = get_logger(__name__)

TIMEOUT_SECONDS: Final = 20.0


def ask_in_time(ask: Callable[[], _T], *, seconds: float | None = None) -> _T:
    """Returns what `ask` returns.

    The libraries retry a hub that does not answer for minutes, and wait for some answers without
    end; asking on a thread that can be left behind bounds both.

    Raises:
        TimeoutError: There is no answer in `seconds`, by default `TIMEOUT_SECONDS`.
        Exception: Whatever `ask` raises.
    """
    answer: list[tuple[_T | None, Exception | None]] = []

    def run() -> None:
        try:
            answer.append((ask(), None))
        except Exception as error:  # raised on the caller's thread
            answer.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    seconds = TIMEOUT_SECONDS if seconds is None else seconds
    thread.join(seconds)
    if not answer:
        raise TimeoutError(f"no answer in {seconds:g} s")
    [(result, error)] = answer
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def is_switched_off() -> bool:
    """Whether the hub is not to be asked (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@lru_cache
def find_model(name: str, revision: str) -> str:
    """Returns where the library's loaders find a model: its name, or the folder of an older copy.

    Asked before anything else is, once in a process: a hub that accepts and never answers would
    hold the loaders without end.

    Args:
        name: Hub name or local folder.
        revision: Branch, tag or commit.

    Raises:
        OSError: The hub does not answer, or not with that model, and there is no copy of it.
    """
    if Path(name).is_dir() or Path(name).is_absolute() or name.startswith(".") or is_switched_off():
        return name
    from huggingface_hub import HfApi, try_to_load_from_cache

    api: Any = HfApi()
    try:
        ask_in_time(lambda: api.model_info(name, revision=revision, timeout=10))
    except Exception as error:  # the library documents no common base of its errors
        copy = try_to_load_from_cache(name, "config.json", revision=revision)
        reason = redact(f"the hub at {api.endpoint} did not give {name}: {error}")
        if not isinstance(copy, str):
            raise OSError(reason) from error
        _log.warning("%s; the copy that was downloaded before is used", reason)
        return str(Path(copy).parent)
    return name


def download_with(name: str, file: str, revision: str | None) -> Path | None:
    """Returns the folder of a whole repository on the hub if it has a certain file, else None.

    A hub that does not answer, or not with that model, counts as one without the file, unless the
    file was downloaded before.

    Args:
        name: Hub name of a model.
        file: What it has to have.
        revision: Branch, tag or commit; None for the main branch.

    Raises:
        ModelError: It has the file, and cannot be downloaded.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not is_switched_off():
        api: Any = HfApi()
        try:
            info = ask_in_time(lambda: api.model_info(name, revision=revision, timeout=10))
        except Exception as error:  # the library documents no common base of its errors
            _log.debug("%s", redact(f"the hub at {api.endpoint} did not give {name}: {error}"))
        else:
            if file not in {sibling.rfilename for sibling in info.siblings or ()}:
                return None
            return _download(name, revision, api.endpoint)
    copy = try_to_load_from_cache(name, file, revision=revision or "main")
    return Path(copy).parent if isinstance(copy, str) else None


def _download(name: str, revision: str | None, endpoint: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, endpoint=endpoint))
    except Exception as error:  # the library documents no common base of its errors
        reason = redact(" ".join(str(error).split()))
        raise ModelError(
            f"{name} could not be downloaded from {endpoint}: {reason}; try again, or give a "
            "folder with a copy of it"
        ) from error
