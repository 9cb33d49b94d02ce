"""`manifest.json` of an output folder: everything that decides the vectors, and what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedllm.config import EncodeConfig, PromptConfig, describe_differences
from embedllm.encoding.inputs import describe_inputs
from embedllm.encoding.row_files import RowFile
from embedllm.encoding.shards import ShardFolder
from embedllm.errors import CheckpointError, ConfigError
from embedllm.files import sha256_of
from embedllm.versions import library_versions

if TYPE_CHECKING:
    # Reading shards needs no model.
    from embedllm.models.configured import EncoderChoice

# Raise it when the same settings begin to mean other vectors or other files.
_FORMAT: Final = 1
_NAME: Final = "manifest.json"
# Keys that change training alone, or where a model comes from.
_NOT_IN_PROMPT: Final = ("training_clean_up", "max_sentence_tokens")
_NOT_IN_MODEL: Final = ("trust_remote_code",)
_LIBRARIES: Final = ("embedllm", "torch", "transformers", "tokenizers", "peft", "numpy")


def describe_settings(
    config: EncodeConfig,
    choice: EncoderChoice,
    files: Sequence[RowFile],
    *,
    dtype: str,
    device: str,
) -> dict[str, Any]:
    """Returns everything that decides the shards, as plain values.

    `tokens_per_batch` is left out: it changes a vector by rounding alone (1e-6 in float32), and a
    call that ran out of memory can go on with a smaller one.

    Args:
        config: The call.
        choice: What encodes.
        files: The input files in order.
        dtype: Type of the weights, with `auto` resolved.
        device: Kind of device, `cpu` or `cuda`.
    """
    adapter = choice.adapter
    return {
        "format": _FORMAT,
        "model": {k: v for k, v in asdict(choice.model).items() if k not in _NOT_IN_MODEL}
        | {"dtype": dtype},
        # This file holds the checksums of all others, so its own identifies the adapter.
        "adapter_sha256": sha256_of(adapter / "embedllm.json") if adapter else None,
        "prompt": _describe_prompt(choice.prompt),
        "input": {
            "files": describe_inputs(files),
            "formats": [type(file).__name__.removesuffix("Rows").lower() for file in files],
            "text_column": config.text_column,
            "id_column": config.id_column,
            "on_bad_row": config.on_bad_row,
        },
        "output": {
            "format": config.format,
            "dtype": config.dtype,
            "shard_rows": config.shard_rows,
        },
        "device": device,
        "versions": {k: v for k, v in library_versions().items() if k in _LIBRARIES},
    }


def _describe_prompt(prompt: PromptConfig) -> dict[str, Any]:
    values = {k: v for k, v in asdict(prompt).items() if k not in _NOT_IN_PROMPT}
    values["demonstrations"] = [[d.sentence, d.word] for d in prompt.demonstrations]
    return values


def read_manifest(root: Path) -> dict[str, Any] | None:
    """Returns the manifest of a folder, None when there is none.

    Raises:
        CheckpointError: It is damaged.
    """
    path = root / _NAME
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values["settings"], dict):
            raise TypeError("no settings")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); set output to another folder"
        ) from error
    return values


class Manifest:
    """The manifest of an output folder, claimed for the settings of this call.

    Processes of one call share it: all write the same values, so it does not matter who does.

    Args:
        folder: The output folder, made already.
        settings: What `describe_settings` returns.
        command: The command line, for readers.

    Raises:
        CheckpointError: The folder holds shards of other settings or of unknown ones, or cannot
            be written.
    """

    def __init__(
        self, folder: ShardFolder, settings: dict[str, Any], *, command: Sequence[str]
    ) -> None:
        self._root = folder.root
        self._folder = folder
        self._weights: str | None = None
        # As it comes back from the file.
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        with self._folder.lock("manifest", wait=True):
            saved = read_manifest(self._root)
            if saved is None or saved["settings"] != self.settings:
                self._refuse_shards_of(saved)
                new = {"settings": self.settings, "command": list(command)}
                self._folder.write_json(self._root / _NAME, new)

    def _refuse_shards_of(self, saved: dict[str, Any] | None) -> None:
        # A start that failed before it had anything to lose binds nobody to its settings.
        if not self._has_shards():
            return
        if saved is None:
            raise CheckpointError(
                f"output={self._root} holds vectors but no {_NAME} that says what they are of; "
                "set output to another folder"
            )
        raise CheckpointError(
            f"output={self._root} holds vectors of another call "
            f"({describe_differences(saved['settings'], self.settings)}); give the same values to "
            "go on with it, or set output to another folder"
        )

    def _has_shards(self) -> bool:
        return any(self._root.glob("vectors-*"))

    def check_is_ours(self) -> None:
        """Raises CheckpointError when another call has taken the folder over meanwhile."""
        self._read_ours()

    def _read_ours(self) -> dict[str, Any]:
        saved = read_manifest(self._root)
        is_ours = saved is not None and saved["settings"] == self.settings
        if saved is None or not is_ours:
            raise CheckpointError(
                f"output={self._root} was taken over by another call; set output to another folder"
            )
        # A model's folder or branch can change while its name stays.
        if self._weights is not None and saved.get("weights") != self._weights:
            raise CheckpointError(
                f"output={self._root} holds vectors of other weights under the same name: "
                "model.name or adapter_path has been changed; set output to another folder"
            )
        return saved

    def note(self, **facts: Any) -> None:
        """Adds facts about the outcome.

        Raises:
            CheckpointError: The folder was taken over or cannot be written.
        """
        with self._folder.lock("manifest", wait=True):
            saved = self._read_ours()
            if saved | facts != saved:
                self._folder.write_json(self._root / _NAME, saved | facts)

    def note_weights(self, checksum: str) -> None:
        """Notes the checksum of the weights and from then on refuses a folder of other ones.

        Raises:
            CheckpointError: The shards that are there were made with other weights.
        """
        if not self._has_shards():
            self.note(weights=checksum)
        self._weights = checksum
        self.check_is_ours()


def refuse_file(output: Path) -> None:
    """Raises ConfigError where a file lies in the place of the output folder."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; it must be a folder for the shards")
