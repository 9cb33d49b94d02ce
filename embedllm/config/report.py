"""The configuration of `python -m embedllm report`: from which results, to which pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from embedllm.config.console import ConsoleConfig
from embedllm.config.groups import PathsConfig


@dataclass
class ReportConfig:
    """Everything `python -m embedllm report` needs."""

    sweep_folder: str | None = None
    """Report a sweep instead, into its own folder: its name in paths.output_dir, or its folder.
    `sweep=...` is short for it."""
    output: str = "docs/results.md"
    """The Markdown tables, one file; its folder is made when it is missing."""
    html: str | None = MISSING
    """The page with pictures, one HTML file that asks nothing of any other; null for none."""
    runs: str = MISSING
    """Folder with the folders of runs, whose `metrics.csv` are the learning curves of `html`."""
    measurements: str = "benchmarks/results"
    """Folder with `speed/` and `plan/`, what the scripts in benchmarks/ measured; for `html`."""
    searches: str = MISSING
    """Folder with demonstration searches; without one the pages have no such part."""
    strict: bool = True
    """Refuse damaged or foreign JSON files; false leaves them out with a warning."""
    paths: PathsConfig = MISSING
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
