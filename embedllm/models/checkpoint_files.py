"""The files of a saved model, read tensor by tensor under the names of a trunk."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from embedllm.log import get_logger

_log = get_logger(__name__)

Guard = Callable[[], AbstractContextManager[None]]
"""Turns the errors of reading, raised inside it, into one message."""


@dataclass(frozen=True)
class Checkpoint:
    """Where each weight of a trunk is saved.

    Attributes:
        places: File, and name in it, by the trunk's own name.
        missing: Weights of the trunk that no file has.
        guard: What all reading happens in.
    """

    places: Mapping[str, tuple[Path, str]]
    missing: frozenset[str]
    guard: Guard

    def read(self, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
        """Yields those of the named weights that are there, mapped from their file.

        A file is open only while its weights are read, so that what was mapped goes away.

        Args:
            shapes: Shape of each weight by name.
        """
        by_file: dict[Path, list[str]] = {}
        for name in shapes:
            if name in self.places:
                by_file.setdefault(self.places[name][0], []).append(name)
        for path, names in by_file.items():
            with self.guard(), _opened(path) as file:
                for name in names:
                    tensor = file.get(self.places[name][1])
                    if tensor.shape != shapes[name]:
                        raise ValueError(
                            f"{name} is {tuple(tensor.shape)} in {path.name}, but "
                            f"{tuple(shapes[name])} in the architecture of config.json"
                        )
                    yield name, tensor


def find_files(source: str, *, revision: str | None) -> list[Path]:
    """Returns the weight files of a folder or hub model, downloaded; none in another layout."""
    from transformers.utils import (
        SAFE_WEIGHTS_INDEX_NAME,
        SAFE_WEIGHTS_NAME,
        WEIGHTS_INDEX_NAME,
        WEIGHTS_NAME,
    )
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    options: dict[str, Any] = {"revision": revision} if revision else {}
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **options)
        if found is None:
            continue
        if name not in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
            return [Path(found)]
        files, _ = get_checkpoint_shard_files(source, found, **options)
        return [Path(file) for file in files]
    return []


def open_checkpoint(trunk: nn.Module, files: Sequence[Path], guard: Guard) -> Checkpoint | None:
    """Returns where the weights of a trunk are saved; None when the library has to convert them.

    Says in the log why it has to.

    Args:
        trunk: The trunk, built without weights and whole.
        files: The weight files.
        guard: What all reading happens in.
    """
    prefix = f"{cast(Any, trunk).base_model_prefix}."
    expected = trunk.state_dict().keys()
    with guard():
        saved = {} if any(map(_is_old_format, files)) else _names_in(files)
        places = {name.removeprefix(prefix): (path, name) for name, path in saved.items()}
        lacking = expected - places.keys()
        made_up = {name for name in lacking if _is_ignored(trunk, name)}
        lacking -= made_up
        # The head's weights are not under the prefix, where there is one.
        has_prefix = any(name.startswith(prefix) for name in saved)
        others = [
            saved_as
            for name, (_, saved_as) in places.items()
            if name not in expected and (saved_as.startswith(prefix) or not has_prefix)
        ]
        reason = None
        if not saved:
            reason = "there is neither model.safetensors nor a pytorch_model.bin of our days"
        elif _is_converted(trunk, saved):
            reason = "transformers renames or converts them"
        elif lacking and others:
            reason = f"{min(lacking)} is not there, but {min(others)} is"
        elif made_up & dict(trunk.named_parameters()).keys():
            reason = f"{min(made_up)} is not there, and transformers makes it up"
    if reason is not None:
        _log.info("the weights are loaded at once instead of block by block: %s", reason)
        return None
    return Checkpoint(places, frozenset(lacking), guard)


def _names_in(files: Sequence[Path]) -> dict[str, Path]:
    """Returns the file of every saved tensor by name."""
    found: dict[str, Path] = {}
    for path in files:
        with _opened(path) as file:
            found |= dict.fromkeys(file.names, path)
    return found


def _is_converted(trunk: nn.Module, names: Collection[str]) -> bool:
    """Whether one of the library's rules for older or other layouts applies to a saved name."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    rules = get_model_conversion_mapping(cast(Any, trunk))
    return any(rule.rename_source_key(name)[1] is not None for rule in rules for name in names)


def _is_ignored(trunk: nn.Module, name: str) -> bool:
    """Whether the library does not mind that a weight is missing, for it is always the same."""
    patterns = getattr(trunk, "_keys_to_ignore_on_load_missing", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _is_old_format(path: Path) -> bool:
    """Whether torch cannot map the file into memory."""
    return path.suffix == ".bin" and path.stat().st_size > 0 and not zipfile.is_zipfile(path)


@dataclass(frozen=True)
class _Opened:
    names: Sequence[str]
    get: Callable[[str], Tensor]


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            yield _Opened(list(file.keys()), file.get_tensor)
        return
    tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    yield _Opened(list(tensors), tensors.__getitem__)
