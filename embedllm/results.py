"""The results store: one JSON file for each finished evaluation, in one folder.

Files are only ever added, whole, under names that nobody has, so any number of processes may
write at once without a lock and a process may be killed while it writes. `result_schema.json`
says what a file holds; it is checked before writing and after reading.

    20261123T085507Z_smollm2-nli_1f0c9a.json     finished (UTC), run_name, content hash
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, cast

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import extend

from embedllm import program
from embedllm.errors import ResultError
from embedllm.files import free_space
from embedllm.log import get_logger

SCHEMA_VERSION: Final = 1

_MAX_SHOWN_FAULTS: Final = 3
_MAX_FAULT_CHARACTERS: Final = 160
_MAX_NAME_CHARACTERS: Final = 80
# Six digits tell files of one run and second apart; the whole hash follows where they do not.
_HASH_DIGITS: Final = (6, 64)

_log = get_logger(__name__)


@dataclass(frozen=True)
class StoredResult:
    """One file of the store.

    Attributes:
        path: The file.
        record: Its content, checked against the schema.
    """

    path: Path
    record: dict[str, Any]

    @property
    def finished(self) -> datetime:
        """When the evaluation ended, with its zone."""
        return datetime.fromisoformat(self.record["finished"])

    @property
    def run_name(self) -> str:
        """Name of the run."""
        return cast(str, self.record["run_name"])

    @property
    def label(self) -> str | None:
        """Name of the row in tables, None when the run was given none."""
        return cast("str | None", self.record["label"])

    @property
    def model_name(self) -> str:
        """The chosen file of `conf/model`, or the model's own name when none is noted."""
        return self.record["model_choice"] or cast(str, self.record["model"]["name"])

    @property
    def adapter(self) -> str | None:
        """Folder of the adapter, None for a base model."""
        return cast("str | None", self.record["adapter"])

    @property
    def prompt_template(self) -> str:
        """The (first) template."""
        return cast(str, self.record["prompt"]["template"])

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Score, metric, protocol, probe, num_examples and details by task."""
        return cast("dict[str, dict[str, Any]]", self.record["tasks"])

    def score(self, task: str) -> float | None:
        """Returns the score of a task, None when it was not scored."""
        return cast(float, self.tasks[task]["score"]) if task in self.tasks else None

    def average(self, kind: Literal["sts", "transfer"]) -> float | None:
        """Returns an average, None when the result has none of this kind."""
        return cast("float | None", self.record["averages"][kind])


def append_result(folder: Path, record: Mapping[str, Any]) -> Path:
    """Adds a record to the store and returns its file.

    An identical record that is already there is not stored twice, so a run that was killed after
    scoring may append again. Safe with any number of writers, on one machine or several.

    Args:
        folder: The store; made when it is missing.
        record: What `result_schema.json` describes.

    Raises:
        ResultError: The record does not fit the schema, or the disk is full or read-only. The
            store is as it was.
    """
    values = dict(record)
    check_record(values)
    # ASCII: a path may hold bytes that are no text, which Python keeps as lone surrogates.
    content = f"{json.dumps(values, indent=2, allow_nan=False)}\n".encode("ascii")
    stem, digest = _stem_of(values), hashlib.sha256(content).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for digits in _HASH_DIGITS:
            path = folder / f"{stem}_{digest[:digits]}.json"
            if _create(path, content) or path.read_bytes() == content:
                return path
    except OSError as error:
        raise ResultError(
            f"the result cannot be stored in {folder}: {error.strerror} "
            f"({free_space(folder / 'x')}). What was stored before is still there, and the same "
            "command stores it; make room, or set paths.results_dir to another disk"
        ) from error
    raise ResultError(f"{path} was changed after it was stored; restore it or move it away")


def read_results(folder: Path, *, strict: bool = False) -> list[StoredResult]:
    """Returns all results, ordered by the time they were finished, then by file name.

    Args:
        folder: The store.
        strict: Refuse a damaged or foreign JSON file; else it is left out, with one warning that
            names all of them.

    Raises:
        ResultError: There is no such folder, or `strict` and a file is no result.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ResultError(
            f"there is no results store in {folder} ({error.strerror}); "
            f"{program.shown('evaluate')} and {program.shown('train')} make one, and "
            "paths.results_dir says where it is"
        ) from error
    results, faults = [], []
    for path in paths:
        # The names of files that are still being written begin with a dot.
        if path.suffix == ".json" and not path.name.startswith("."):
            try:
                results.append(StoredResult(path, _read(path)))
            except ResultError as error:
                faults.append(str(error))
    if faults and strict:
        raise ResultError("\n".join(faults))
    if faults:
        _log.warning("left out %d of the files in %s:\n%s", len(faults), folder, "\n".join(faults))
    return sorted(results, key=lambda result: (result.finished, result.path.name))


def check_record(record: object) -> None:
    """Raises ResultError, which names the JSON path, for a record that does not fit the schema."""
    try:
        errors = sorted(_validator().iter_errors(record), key=lambda error: error.json_path)
    except RecursionError:
        raise ResultError("the result does not fit the schema: $ is nested too deeply") from None
    if not errors:
        return
    shown = [f"{e.json_path}: {_shorten(e.message)}" for e in errors[:_MAX_SHOWN_FAULTS]]
    if len(errors) > _MAX_SHOWN_FAULTS:
        shown.append(f"and {len(errors) - _MAX_SHOWN_FAULTS} more")
    raise ResultError(
        f"the result does not fit the schema (version {SCHEMA_VERSION}): {'; '.join(shown)}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        check_record(record)
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path}: {error}") from error
    return cast("dict[str, Any]", record)


def _create(path: Path, content: bytes) -> bool:
    """Puts a file, whole, under a name that is free. Returns False when the name is taken."""
    work = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with work.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link never takes the place of a file that is there.
            path.hardlink_to(work)
        except FileExistsError:
            return False
        except OSError:
            return _create_without_link(work, path)
        _sync_folder(path.parent)
        return True
    finally:
        work.unlink(missing_ok=True)


def _create_without_link(work: Path, path: Path) -> bool:
    """The same where links do not exist: an empty file holds the name until the content comes."""
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    work.replace(path)
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Makes a new name last through a power cut, where the file system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _stem_of(record: dict[str, Any]) -> str:
    finished = datetime.fromisoformat(record["finished"]).astimezone(UTC)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", record["run_name"])[:_MAX_NAME_CHARACTERS]
    return f"{finished:%Y%m%dT%H%M%SZ}_{name.strip('-.') or 'run'}"


def _shorten(text: str) -> str:
    is_long = len(text) > _MAX_FAULT_CHARACTERS
    # The end says what was expected; the middle is the value.
    half = _MAX_FAULT_CHARACTERS // 2
    return f"{text[:half]} ... {text[-half:]}" if is_long else text


@lru_cache(maxsize=1)
def _validator() -> Any:
    """Returns the validator of Python values: what JSON has, and tuples for arrays."""
    text = resources.files("embedllm").joinpath("result_schema.json").read_text(encoding="utf-8")
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_finite_number, "array": lambda _, value: isinstance(value, list | tuple)}
    )
    formats = FormatChecker(formats=())
    formats.checks("date-time", raises=(ValueError, OverflowError))(_has_zone)
    schema = json.loads(text)
    validator = extend(Draft202012Validator, type_checker=types)
    validator.check_schema(schema)
    return validator(schema, format_checker=formats)


def _is_finite_number(_: object, value: object) -> bool:
    # JSON has no NaN and no infinity, but Python's reader and writer let them pass.
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _has_zone(value: object) -> bool:
    """Whether a text is a time with a zone that can be told in UTC too."""
    if not isinstance(value, str):
        return True
    time = datetime.fromisoformat(value)
    return time.tzinfo is not None and time.astimezone(UTC) is not None
