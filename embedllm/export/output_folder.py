"""The folder that an export goes to: whether it is there already, and what may be replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from embedllm.config import ExportConfig
from embedllm.errors import CheckpointError, ConfigError
from embedllm.export.source import Source
from embedllm.files import sha256_of
from embedllm.models.adapter_folder import DESCRIPTION_FILE


def identity_of(config: ExportConfig, source: Source) -> dict[str, Any]:
    """Returns what the weights of an export follow from; its card is written anew each time."""
    return {
        "format": config.format,
        "dtype": source.dtype,
        "method": source.description.method,
        # This file holds the checksums of all others, so its own identifies the adapter.
        "adapter_sha256": sha256_of(source.folder / DESCRIPTION_FILE),
    }


def saved_identity(folder: Path) -> Any:
    """Returns the identity of the export in a folder; None where it holds no export."""
    try:
        text = (folder / DESCRIPTION_FILE).read_text(encoding="utf-8")
        return json.loads(text)["training"]["export"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finished_export(config: ExportConfig, source: Source) -> bool:
    """Whether `output` holds this very export already."""
    folder = Path(config.output).expanduser()
    return bool(saved_identity(folder) == identity_of(config, source))


def refuse_output(config: ExportConfig, source: Source, output: Path) -> None:
    """Raises ConfigError for a folder whose replacement would cost more than an older export."""
    target = output.resolve()
    for what, place in _places_to_keep(source):
        if place.resolve().is_relative_to(target):
            raise ConfigError(
                f"output={output} cannot be replaced: {what} ({place}) is in it; name a folder of "
                "its own"
            )
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if saved_identity(output) is None:
        raise ConfigError(
            f"output={output} is there and holds something else than an export; allowed: a new or "
            "empty folder, or an older export with overwrite=true"
        )
    if not config.overwrite:
        raise ConfigError(
            f"output={output} holds another export; allowed: a new or empty folder, or "
            "overwrite=true to replace that one"
        )


def _places_to_keep(source: Source) -> list[tuple[str, Path]]:
    bases = [Path(name) for name in (source.model.name, source.model.tokenizer) if name]
    return [
        ("the adapter", source.folder),
        *(("its base model", path) for path in bases if path.is_dir()),
        ("the working folder", Path.cwd()),
        ("your home", Path.home()),
    ]


def check_space(output: Path, needed: int) -> None:
    """Raises CheckpointError where there is less room than so many bytes."""
    place = next(p for p in (output.absolute(), *output.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CheckpointError(
            f"output={output} needs about {needed / 2**20:.0f} MiB, but there are only "
            f"{free / 2**20:.0f} MiB free; make room, choose another disk, or a smaller type with "
            "dtype=bfloat16"
        )
