"""Weights & Biases: a witness of a run, not a part of it.

Whatever fails or hangs here costs a bounded time and one warning, and the run goes on. What was
logged until then is in a folder below the run's, which `wandb sync` uploads at any time.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from embedllm.config import LoggerConfig
from embedllm.errors import PreemptedError
from embedllm.files import to_plain_name, write_json
from embedllm.hub import ask_in_time
from embedllm.log import get_logger
from embedllm.run_state import average_of
from embedllm.versions import git_revision

STEP: Final = "trainer/global_step"

_ID_FILE: Final = "wandb.json"
# SLURM's KillWait, the time from SIGTERM to SIGKILL, is 30 s by default.
_SECONDS_TO_LEAVE: Final = 5.0

_log = get_logger(__name__)


@dataclass(frozen=True)
class TrackedRun:
    """What W&B is told about a run when it begins.

    Attributes:
        name: Its name, for people.
        identity: What makes two starts in one folder starts of one run, and so one run there.
        job_type: `train` or `evaluate`.
        group: The sweep, or what `logger.group` says.
        folder: Of the run; W&B's files go into `wandb` below it.
        config: The resolved configuration.
    """

    name: str
    identity: str
    job_type: str
    group: str | None
    folder: Path
    config: dict[str, Any] = field(repr=False)


class Tracker:
    """One run at W&B, or none: then, and from the first failure on, every call does nothing.

    Args:
        run: W&B's run.
        folder: Of the run, for the command that uploads.
    """

    def __init__(self, run: Any | None, folder: Path) -> None:
        self._run = run
        self._folder = folder

    @property
    def run(self) -> Any | None:
        """W&B's run, None without one."""
        return self._run

    def attempt(self, action: Callable[[Any], object]) -> None:
        """Calls the action with W&B's run; the first failure is a warning and the last call."""
        run = self._run
        if run is None:
            return
        try:
            action(run)
        except Exception as error:
            self._run = None
            _warn_of_loss(run, self._folder, error)
            _stop_service()

    def log_scores(self, records: Mapping[str, dict[str, Any] | None]) -> None:
        """Logs one table with a row for each record, and its averages as `scores/...`."""
        found = {name: record for name, record in records.items() if record is not None}
        if not found or self._run is None:
            return
        columns, rows = build_table(found)
        averages = {f"scores/average_{name}": average_of(record) for name, record in found.items()}

        def write(run: Any) -> None:
            import wandb

            run.log({"scores": wandb.Table(columns=columns, data=rows)})
            run.summary.update({key: value for key, value in averages.items() if value is not None})

        self.attempt(write)

    def summarize(self, values: Mapping[str, float | None]) -> None:
        """Sets values of the run that have no step, those that are known."""
        known = {key: value for key, value in values.items() if value is not None}
        self.attempt(lambda run: run.summary.update(known))

    def save_folder(self, folder: Path, *, name: str, kind: str) -> None:
        """Uploads a folder as an artifact; whatever the name holds, it is a plain one there."""

        def write(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(name=to_plain_name(name), type=kind)
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                artifact.add_file(str(path), name=path.relative_to(folder).as_posix())
            run.log_artifact(artifact)

        self.attempt(write)

    def finish(self, *, exit_code: int) -> None:
        """Ends the run there; waits for uploads no longer than `logger.timeout_seconds`."""
        self.attempt(lambda run: run.finish(exit_code=exit_code))
        self.say_how_to_upload()
        self._run = None

    def leave(self) -> None:
        """Ends the run there as one that was preempted and goes on.

        Waits for a few seconds only: SIGKILL may be near, and the job is not in the queue yet.
        """
        self.say_how_to_upload()
        run, self._run = self._run, None
        if run is None:
            return

        def end() -> None:
            run.mark_preempting()
            run.finish(exit_code=PreemptedError.exit_code)

        try:
            ask_in_time(end, seconds=_SECONDS_TO_LEAVE)
        except Exception as error:
            # W&B's service is not ended here, which would wait too; that comes behind the queue.
            _warn_of_loss(run, self._folder, error)

    def say_how_to_upload(self) -> None:
        """Logs the command that uploads what W&B has offline."""
        if self._run is not None and self._run.settings.mode == "offline":
            command = _sync_command(self._run, self._folder)
            _log.info("W&B is offline; upload with `%s`", command)


@contextmanager
def tracked(settings: LoggerConfig, about: Callable[[], TrackedRun]) -> Iterator[Tracker]:
    """Yields the tracker of a run, which ends with the block.

    Args:
        settings: `logger` of the configuration; on all ranks but the first without `wandb`.
        about: What the run is; called with `logger.wandb=true` alone.
    """
    tracker = _start(settings, about()) if settings.wandb else Tracker(None, Path())
    try:
        yield tracker
    except PreemptedError:
        tracker.leave()
        raise
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish(exit_code=0)


def _warn_of_loss(run: Any, folder: Path, error: Exception) -> None:
    _log.warning(
        "W&B is lost (%s: %s) and the run goes on without it; what it has until here can be "
        "uploaded later: %s",
        type(error).__name__,
        error,
        _sync_command(run, folder),
    )


def _sync_command(run: Any, folder: Path) -> str:
    """Returns the command that uploads a run: all its offline starts, oldest first, or this one."""
    places = folder / "wandb"
    offline = sorted(map(str, places.glob("offline-run-*")))
    # By its time: the server may have given it another id.
    here = [str(path) for path in places.glob(f"*run-{run.settings.timespec}-*")]
    return shlex.join(["wandb", "sync", *(offline if set(here) <= set(offline) else here)])


def build_table(records: Mapping[str, dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Returns header and rows: the records' names, their scores by task, their averages."""
    tasks = list(dict.fromkeys(task for record in records.values() for task in record["tasks"]))
    kinds = [
        kind
        for kind in ("sts", "transfer")
        if any(record["averages"].get(kind) is not None for record in records.values())
    ]
    header = ["scores", *tasks, *(f"{kind} average" for kind in kinds)]
    rows = []
    for name, record in records.items():
        scores = [record["tasks"].get(task, {}).get("score") for task in tasks]
        rows.append([name, *scores, *(record["averages"].get(kind) for kind in kinds)])
    return header, rows


def _start(settings: LoggerConfig, about: TrackedRun) -> Tracker:
    """Returns a tracker that is online with a key and an answering server, else offline."""
    has_key = bool(os.environ.get("WANDB_API_KEY")) or _has_saved_key()
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    for attempt in [mode] if mode != "online" else ["online", "offline"]:
        try:
            run = _init(attempt, settings, about)
        except Exception as error:
            _log.warning("W&B did not start in mode %s: %s", attempt, error)
            _stop_service()
            continue
        tracker = Tracker(run, about.folder)
        tracker.say_how_to_upload()
        return tracker
    _log.warning("the run goes on without W&B")
    return Tracker(None, about.folder)


def _init(mode: str, settings: LoggerConfig, about: TrackedRun) -> Any:
    import wandb

    about.folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        mode=cast(Any, mode),
        project=settings.project,
        group=about.group,
        job_type=about.job_type,
        tags=settings.tags or None,
        name=about.name,
        # A W&B agent names its runs itself.
        id=os.environ.get("WANDB_RUN_ID") or _kept_id(about),
        resume="allow",
        dir=str(about.folder.resolve()),
        config={**about.config, "git_revision": git_revision()},
        settings=wandb.Settings(
            init_timeout=settings.timeout_seconds,
            finish_timeout=settings.timeout_seconds,
            finish_timeout_raises=True,
            silent=True,
            # The log is in the run's folder; no line of it shall depend on W&B.
            console="off",
        ),
    )
    # Not W&B's own count of calls: after a resume that would take old steps for new ones.
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def _kept_id(about: TrackedRun) -> str:
    """Returns the run's id: drawn at its first start, kept in its folder, gone with it.

    A name or a configuration would make one id of runs in several sweeps or folders.
    """
    path = about.folder / _ID_FILE
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kept.get("identity") == about.identity:
        return str(kept["run_id"])
    run_id = secrets.token_hex(8)
    write_json(path, {"run_id": run_id, "identity": about.identity})
    return run_id


def _stop_service() -> None:
    """Ends W&B's service process, which else keeps the run's id."""
    with suppress(Exception):
        import wandb

        wandb.teardown()


def _has_saved_key() -> bool:
    """Whether `wandb login` left a key in the netrc file."""
    try:
        import netrc

        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, ValueError, SyntaxError):
        return False
