"""An exported folder to a repository on the Hugging Face hub, in bounded time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedllm import hub
from embedllm.config import ExportConfig
from embedllm.console import result_table
from embedllm.errors import ModelError
from embedllm.log import get_logger
from embedllm.secrets import redact

if TYPE_CHECKING:
    from rich.table import Table

_log = get_logger(__name__)

# A slow line; below it, or without any answer, the upload counts as failed.
_BYTES_PER_SECOND: Final = 250_000


def list_upload(folder: Path) -> dict[str, int]:
    """Returns what `push_folder` would send: the bytes of each file, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files_of(folder)}


def upload_table(sizes: Mapping[str, int], config: ExportConfig) -> Table:
    """Returns the files that a push would send, as a table with sizes."""
    visibility = "private" if config.push_private else "public"
    table = result_table(f"would go to {config.push} ({visibility}); nothing was sent")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, size in sizes.items():
        table.add_row(name, f"{size:,}")
    table.add_row("in all", f"{sum(sizes.values()):,}", style="bold")
    return table


def push_folder(folder: Path, config: ExportConfig) -> str:
    """Makes the repository where it is not there, sends the folder and returns its address.

    The token is the library's own affair: HF_TOKEN, or what `hf auth login` stored.

    Raises:
        ModelError: The hub does not answer or refuses; the folder stays, and the same command
            tries again.
    """
    from huggingface_hub import HfApi

    if hub.is_switched_off():
        raise ModelError(
            f"push={config.push} needs the hub, and HF_HUB_OFFLINE rules it out; unset it"
        )
    api: Any = HfApi()
    name = str(config.push)
    seconds = (
        hub.TIMEOUT_SECONDS + sum(p.stat().st_size for p in _files_of(folder)) / _BYTES_PER_SECOND
    )
    try:
        hub.ask_in_time(
            lambda: api.create_repo(name, private=config.push_private, exist_ok=True),
        )
        answer: Any = hub.ask_in_time(
            lambda: api.upload_folder(
                repo_id=name, folder_path=str(folder), commit_message="Export by embedllm"
            ),
            seconds=seconds,
        )
    except Exception as error:  # the library documents no common base of its errors
        reason = redact(" ".join(str(error).split()) or type(error).__name__)
        raise ModelError(
            f"push={name}: the hub at {api.endpoint} did not take it: {reason}. The folder "
            f"{folder} is whole, and the same command tries again; a token with the right to "
            "write comes from HF_TOKEN or `hf auth login`"
        ) from error
    return str(getattr(answer, "repo_url", None) or f"{api.endpoint}/{name}")


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
