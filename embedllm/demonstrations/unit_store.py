"""What a search has computed, one small file per unit, shared by all processes of all searches.

A unit is the cosine similarities of one prompt on the pairs [start, stop) of the pair order:
`<folder>/<prompt key>/<start>-<stop>.npy`, float64. It appears by renaming, so it is whole or
absent, and nobody needs to be told about it. What a search needs is covered by whatever units
there are, cut as they may be, so searches with other rounds share their work.

A process claims a prompt with a lock that goes with the process, also when that is killed; the
units of the dead one are then free for the others.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from embedllm.config import ModelConfig, PromptConfig, fingerprint
from embedllm.errors import CheckpointError
from embedllm.files import write_atomically, write_json
from embedllm.log import get_logger

_log = get_logger(__name__)

# Raise it when the same values begin to mean other similarities; old units are then left alone.
_FORMAT: Final = 1
_UNIT_NAME: Final = re.compile(r"(\d+)-(\d+)\.npy")
# Keys that change where a model comes from or what training does, but no similarity.
_NOT_IN_MODEL: Final = ("trust_remote_code",)
_RANDOM_ONLY: Final = ("architecture", "init_seed")
_NOT_IN_PROMPT: Final = ("training_clean_up", "max_sentence_tokens")


def prompt_key(prompt: PromptConfig) -> str:
    """Returns what a prompt's folder is called: a hash of all that evaluation sees of it.

    The number of a candidate is no part of it, so a changed list of candidates loses nothing.
    """
    values = _deciding(prompt, without=_NOT_IN_PROMPT)
    values["demonstrations"] = [[d.sentence, d.word] for d in prompt.demonstrations]
    # It has no effect without a demonstration.
    values["demonstration_end"] = prompt.demonstration_end if prompt.demonstrations else None
    return fingerprint(values)


def store_identity(
    model: ModelConfig, *, dtype: str, task: str, data: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Returns everything but the prompt that decides similarities, as plain values.

    Args:
        model: The backbone.
        dtype: Type of the weights, with `auto` resolved.
        task: Name of the task.
        data: Fingerprint of the task.
        seed: Seed of the pair order.
    """
    without = _NOT_IN_MODEL if model.init == "random" else (*_NOT_IN_MODEL, *_RANDOM_ONLY)
    values = _deciding(model, without=without) | {"dtype": dtype}
    return {"format": _FORMAT, "model": values, "task": task, "data": data, "seed": seed}


def _deciding(config: Any, *, without: Sequence[str]) -> dict[str, Any]:
    """Returns the values that are not the default; a key that comes later changes no hash."""
    defaults = {
        f.name: f.default if f.default_factory is NO_DEFAULT else f.default_factory()
        for f in fields(config)
    }
    values = asdict(config)
    return {k: v for k, v in values.items() if k not in without and v != defaults[k]}


class UnitStore:
    """The units of all prompts under one identity.

    Args:
        root: Folder of a run; the units get a folder of their own in it.
        identity: What `store_identity` returns.
        rank: Number of this process, for its notes.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written.
    """

    def __init__(self, root: Path, identity: dict[str, Any], *, rank: int = 0) -> None:
        self.folder = root / f"units-{fingerprint(identity)}"
        self._damaged: set[Path] = set()
        path = self.folder / "identity.json"
        if not path.exists():
            write_json(path, identity)
        (self.folder / "locks").mkdir(exist_ok=True)
        self._log_path = self.folder / "log" / f"rank-{rank}.csv"
        if not self._log_path.exists():
            write_atomically(self._log_path, b"prompt,start,stop,seconds\n")

    def read(self, key: str, stop: int) -> NDArray[np.float64] | None:
        """Returns the similarities of the pairs [0, stop), None while some are missing."""
        found = np.empty(stop, dtype=np.float64)
        position = 0
        for unit, values in self._cover(key, stop):
            if unit.start > position:
                return None
            end = min(unit.stop, stop)
            found[position:end] = values[position - unit.start : end - unit.start]
            position = end
        return found if position >= stop else None

    def missing(self, key: str, stop: int) -> list[range]:
        """Returns the parts of [0, stop) that no whole unit covers, in order."""
        gaps = []
        position = 0
        for unit, _ in self._cover(key, stop):
            if unit.start > position:
                gaps.append(range(position, unit.start))
            position = unit.stop
        if position < stop:
            gaps.append(range(position, stop))
        return gaps

    def write(self, key: str, unit: range, similarities: NDArray[np.float64]) -> None:
        """Adds a unit.

        Raises:
            CheckpointError: The disk is full or the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, similarities.astype(np.float64, copy=False), allow_pickle=False)
        write_atomically(self._path(key, unit), buffer.getvalue())

    def record(self, key: str, unit: range, *, seconds: float) -> None:
        """Notes what a unit took; the notes are for people and sums, never for resuming."""
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(f"{key},{unit.start},{unit.stop},{seconds:.3f}\n")

    def seconds(self, stops: Mapping[str, int]) -> float:
        """Returns what the units of some prompts took, whichever process computed them.

        Args:
            stops: By prompt, the pair before which a unit must begin to be counted.
        """
        total = 0.0
        for path in sorted(self._log_path.parent.glob("rank-*.csv")):
            for row in csv.reader(path.read_text(encoding="utf-8").splitlines()):
                # A full disk or a crash can cut a line short.
                if len(row) == 4 and row[3] and row[0] in stops and int(row[1]) < stops[row[0]]:
                    total += float(row[3])
        return total

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Holds a prompt for this process while the block runs; yields False if another does."""
        lock = FileLock(self.folder / "locks" / f"{key}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise CheckpointError(
                f"{lock.lock_file} cannot be locked: {error}; set paths.output_dir to a disk that "
                "has file locks"
            ) from error
        try:
            yield True
        finally:
            lock.release()

    def _cover(self, key: str, stop: int) -> list[tuple[range, NDArray[np.float64]]]:
        """Returns whole units that cover as much of [0, stop) as there is, in order.

        Of several units that would do, the one that reaches farthest is taken.
        """
        units = self._units(key)
        chosen: list[tuple[range, NDArray[np.float64]]] = []
        position = 0
        while position < stop:
            ahead = [u for u in units if u.start <= position < u.stop]
            if not ahead:
                later = [u.start for u in units if position < u.start < stop]
                if not later:
                    break
                position = min(later)
                continue
            best = max(ahead, key=lambda u: (u.stop, -u.start))
            values = self._load(key, best)
            if values is None:
                units.remove(best)
                continue
            chosen.append((best, values))
            position = best.stop
        return chosen

    def _units(self, key: str) -> list[range]:
        matches = (_UNIT_NAME.fullmatch(path.name) for path in (self.folder / key).glob("*.npy"))
        return sorted(
            (range(int(m[1]), int(m[2])) for m in matches if m), key=lambda u: (u.start, u.stop)
        )

    def _load(self, key: str, unit: range) -> NDArray[np.float64] | None:
        """Returns a unit, None and one warning when its file is damaged."""
        path = self._path(key, unit)
        try:
            values: NDArray[np.float64] = np.load(path, allow_pickle=False)
            if values.dtype == np.float64 and values.shape == (len(unit),):
                return values
            reason = f"it holds {values.dtype} {values.shape}"
        except (ValueError, EOFError, OSError) as error:
            reason = str(error)
        if path not in self._damaged:
            self._damaged.add(path)
            _log.warning("%s is damaged and will be computed again: %s", path, reason)
        return None

    def _path(self, key: str, unit: range) -> Path:
        return self.folder / key / f"{unit.start}-{unit.stop}.npy"
