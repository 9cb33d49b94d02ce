"""How far a run is, and why it ended, as the files of its folder say; read by sweeps and reports.

`failure.json` is there from the moment a run ends by an error until it is started again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from filelock import FileLock, Timeout

from embedllm.errors import CheckpointError, EmbedllmError, PeerError, PreemptedError
from embedllm.files import write_atomically, write_json
from embedllm.log import process_number
from embedllm.secrets import redact

_FAILURE: Final = "failure.json"
_OUTCOME: Final = "outcome.json"
_MAX_MESSAGE_CHARACTERS: Final = 4000
_LOOK_SECONDS: Final = 0.2
# What Hydra leaves in the folder of every run that was started.
_HYDRA: Final = ".hydra"

Status = Literal["done", "running", "failed", "stopped"]


@dataclass(frozen=True)
class Failure:
    """Why a run ended.

    Attributes:
        error: Name of the exception's class.
        message: What it says.
        exit_code: That of the process, or the one it would have had.
        finished: When, ISO 8601 with zone.
    """

    error: str
    message: str
    exit_code: int
    finished: str


@dataclass(frozen=True)
class RunState:
    """What the folder of a run holds.

    Attributes:
        folder: The folder.
        status: `done`; `running`: a process holds the lock; `failed`: with a message; `stopped`:
            without one, as after a kill or a power cut.
        overrides: The command line, `key` to value.
        manifest: Content of `run.json`, None before it was written.
        before: Record of the scores before training.
        after: Record of the scores of the best adapter.
        dev_score: Score of the best adapter on the dev task.
        seconds: How long the start took that finished the run.
        failure: Why it ended, when `failed`.
    """

    folder: Path
    status: Status
    overrides: dict[str, str]
    manifest: dict[str, Any] | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    dev_score: float | None
    seconds: float | None
    failure: Failure | None

    @property
    def average(self) -> float | None:
        """Average after training: over the STS tasks, without any over the transfer tasks."""
        return average_of(self.after)

    @property
    def objective(self) -> float | None:
        """What a search maximises: the dev score, without a dev task the average."""
        return self.average if self.dev_score is None else self.dev_score


def average_of(record: dict[str, Any] | None) -> float | None:
    """Returns the STS average of a record, without STS tasks the transfer average."""
    averages = record["averages"] if record else {}
    values = [averages.get(kind) for kind in ("sts", "transfer")]
    return next((value for value in values if value is not None), None)


def read_run_state(folder: Path) -> RunState:
    """Returns the state of one run folder.

    Raises:
        CheckpointError: A file of the folder is damaged.
    """
    manifest = _read(folder / "run.json")
    after = _read(folder / "results" / "after.json")
    adapter = _read(folder / "adapter" / "embedllm.json")
    failure = _read(folder / _FAILURE)
    has_tasks = manifest is None or bool(manifest["config"]["evaluation"]["tasks"])
    is_done = adapter is not None and (after is not None or not has_tasks)
    status: Status = "done" if is_done else "failed" if failure else "stopped"
    if not is_done and _is_locked(folder):
        status = "running"
    training = (adapter or {}).get("training") or {}
    return RunState(
        folder,
        status,
        _by_key(read_overrides(folder) or []),
        manifest,
        _read(folder / "results" / "before.json"),
        after,
        cast("float | None", training.get("dev_score")),
        cast("float | None", (_read(folder / _OUTCOME) or {}).get("seconds")),
        Failure(**failure) if failure and status == "failed" else None,
    )


def read_overrides(folder: Path) -> list[str] | None:
    """Returns what a run's command had behind the program's name; None when Hydra kept nothing.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / _HYDRA / "overrides.yaml"
    if not path.is_file():
        return None
    import yaml  # type: ignore[import-untyped]

    try:
        return list(map(str, yaml.safe_load(path.read_text(encoding="utf-8")) or []))
    except (ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} is damaged; delete the run folder to start anew") from error


def find_runs(folder: Path) -> list[Path]:
    """Returns the run folders directly below a folder, in the order of their names."""
    found = (path.parent for path in folder.glob(f"*/{_HYDRA}"))
    return sorted(path for path in found if not path.name.startswith("."))


def note_lost(folder: Path, message: str, *, overrides: Sequence[str], start: datetime) -> Failure:
    """Notes why a run ended that could not say it itself, and returns what its folder now says.

    Args:
        folder: The run's folder, which may not be there yet.
        message: Why it ended; what the run itself said since the start counts more.
        overrides: The command line of the run.
        start: When the sweep began.
    """
    said = read_failure(folder)
    if said and _is_since(said, start):
        return said
    failure = _describe(PeerError(message), PeerError(message).exit_code)
    path = folder / _HYDRA / "overrides.yaml"
    if not path.exists():
        # As Hydra leaves them.
        lines = "".join(f"- {json.dumps(override)}\n" for override in overrides)
        write_atomically(path, lines.encode())
    write_json(folder / _FAILURE, asdict(failure))
    return failure


def failures_since(folder: Path, start: datetime) -> list[tuple[Path, Failure]]:
    """Returns the runs directly below a folder that failed at or after a moment."""
    found = []
    for run in find_runs(folder):
        failure = read_failure(run)
        if failure and _is_since(failure, start):
            found.append((run, failure))
    return found


def _is_since(failure: Failure, start: datetime) -> bool:
    return datetime.fromisoformat(failure.finished) >= start.replace(microsecond=0)


@contextmanager
def recorded_failure(folder: Path) -> Iterator[None]:
    """Keeps why the block ended, when it ends by an error, in the run's folder.

    On every rank. An error that only says that another process failed gives way to that one's. A
    second start into a folder in use leaves nothing in it.
    """
    path = folder / _FAILURE
    if process_number() == 0 and not _is_locked(folder):
        with suppress(OSError):
            path.unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        code = _exit_code(error)
        is_echo = isinstance(error, PeerError | SystemExit) and path.exists()
        # Rank 0 has let go of its lock by now.
        is_of_others = process_number() == 0 and _is_locked(folder)
        if code and folder.is_dir() and not (is_echo or is_of_others):
            # The error itself is what counts, also where the folder takes no more files.
            with suppress(OSError, CheckpointError):
                write_json(path, asdict(_describe(error, code)))
        raise


def note_seconds(folder: Path, seconds: float) -> None:
    """Notes how long the start took that finished a run; later ones find nothing to do."""
    path = folder / _OUTCOME
    if not path.exists():
        write_json(path, {"seconds": round(seconds, 2)})


def read_failure(folder: Path) -> Failure | None:
    """Returns why the run in a folder ended, None when it did not end by an error."""
    values = _read(folder / _FAILURE)
    return Failure(**values) if values else None


def to_job_error(error: SystemExit, folder: Path) -> EmbedllmError:
    """Returns what the processes of a sweep's run left behind as an error."""
    failure = read_failure(folder)
    code = error.code if isinstance(error.code, int) else 1
    message = failure.message if failure else f"{folder} ended with exit code {code}"
    return PeerError(message, exit_code=code)


def _describe(error: BaseException, code: int) -> Failure:
    name = type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif isinstance(error, SystemExit):
        message = f"a process ended with exit code {code} and without a message"
    elif isinstance(error, EmbedllmError):
        message = str(error)
    else:
        message = f"{name}: {error}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    # Before it is cut: half a key would not be known.
    return Failure(name, redact(message)[:_MAX_MESSAGE_CHARACTERS], code, now)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, PreemptedError):
        # It stopped in order and goes on.
        return 0
    return error.exit_code if isinstance(error, EmbedllmError) else 1


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged; delete the run folder to start anew") from error
    return value


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Returns the values of overrides; what is switched off (`~key`) is left out."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {key: value for key, equals, value in pairs if equals}


def _is_locked(folder: Path) -> bool:
    path = folder / ".lock"
    if not path.exists():
        return False
    # Long enough for another process that only looks, as this one does.
    lock = FileLock(path, timeout=_LOOK_SECONDS)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False
