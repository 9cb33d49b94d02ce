"""The configuration of `python -m embedllm results`: which results, in which order and form."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from omegaconf import MISSING

from embedllm.config.checks import at_least, one_of
from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import PathsConfig
from embedllm.errors import ConfigError

RESULT_FORMATS = ("table", "json", "csv", "markdown")
RESULT_COLUMNS = ("averages", "tasks")


@dataclass
class ResultFilterConfig:
    """Which results are listed: those that fit everything given. Case makes no difference."""

    run_name: str | None = None
    """Part of the run's name."""
    label: str | None = None
    """Part of the label."""
    model: str | None = None
    """Part of the model's name, or of the chosen file of `conf/model`."""
    task: str | None = None
    """Name of a task that was scored."""
    adapter: str | None = None
    """`none` for base models, `any` for adapters, or a part of the adapter's path."""
    prompt: str | None = None
    """Part of the text of a template or a demonstration."""
    since: str | None = None
    """First day (2026-01-31) or time (2026-01-31T12:00+01:00) of finishing; UTC without a zone."""
    min_average: float | None = None
    """Smallest STS average; without one, smallest transfer average."""

    def __post_init__(self) -> None:
        at_least("filter.min_average", self.min_average, -100)
        self.to_since_time()

    def to_since_time(self) -> datetime | None:
        """Returns `since` as a time with zone, None when it is not set."""
        if self.since is None:
            return None
        try:
            time = datetime.fromisoformat(self.since)
        except ValueError as error:
            raise ConfigError(
                f"filter.since={self.since!r} is no date; it must look like 2026-01-31 or "
                "2026-01-31T12:00"
            ) from error
        return time if time.tzinfo else time.replace(tzinfo=UTC)


@dataclass
class ResultsConfig:
    """Everything `python -m embedllm results` needs."""

    filter: ResultFilterConfig = field(default_factory=ResultFilterConfig)
    """Which results are listed."""
    sort_by: str = "finished"
    """`finished` (newest first), `sts`, `transfer` or the name of a task (best first)."""
    limit: int | None = None
    """List only the first so many in that order."""
    format: str = "table"
    """`table` for people; `json`, `csv` and `markdown` go to stdout with nothing else."""
    columns: str = "averages"
    """`averages`, or `tasks` for one column per task; `json` always has everything."""
    strict: bool = False
    """Refuse a store with damaged or foreign JSON files instead of leaving these out."""
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)

    def __post_init__(self) -> None:
        at_least("limit", self.limit, 1)
        one_of("format", self.format, RESULT_FORMATS)
        one_of("columns", self.columns, RESULT_COLUMNS)
