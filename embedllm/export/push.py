"""An exported folder to a repository on the Hugging Face hub, in bounded time."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedllm import hub
from embedllm.config import ExportConfig
from embedllm.console import result_table
from embedllm.errors import ModelError
from embedllm.export.output_folder import saved_identity
from embedllm.export.sentence_transformers_folder import FOREIGN_FILES
from embedllm.log import get_logger
from embedllm.models.adapter_folder import DESCRIPTION_FILE
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
        _warn_of_visibility(hub.ask_in_time(lambda: api.repo_info(name)), config)
        stale = hub.ask_in_time(lambda: _stale_files(api, name, folder))
        answer: Any = hub.ask_in_time(
            lambda: api.upload_folder(
                repo_id=name,
                folder_path=str(folder),
                commit_message="Export by embedllm",
                delete_patterns=[glob.escape(file) for file in stale] or None,
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


def _warn_of_visibility(repository: Any, config: ExportConfig) -> None:
    """Says where a repository that was there before is not what `push_private` asks for."""
    if bool(repository.private) != config.push_private:
        _log.warning(
            "push_private=%s has no effect: %s is there and %s; the hub's settings change that",
            str(config.push_private).lower(),
            config.push,
            "private" if repository.private else "public",
        )


def _stale_files(api: Any, name: str, folder: Path) -> list[str]:
    """Returns what an earlier export left in the repository and this one does not replace."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = Path(api.hf_hub_download(name, DESCRIPTION_FILE))
    except EntryNotFoundError:
        return []
    if saved_identity(path.parent) is None:
        return []
    written = {*json.loads(path.read_text(encoding="utf-8"))["checksums"], *FOREIGN_FILES}
    return sorted(written - list_upload(folder).keys())


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
