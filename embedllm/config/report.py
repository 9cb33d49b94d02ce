"""The configuration of `python -m embedllm report`: from which results, to which page."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from embedllm.config.groups import PathsConfig


@dataclass
class ReportConfig:
    """Everything `python -m embedllm report` needs."""

    sweep_folder: str | None = None
    """Report a sweep instead, into its own folder: its name in paths.output_dir, or its folder.
    `sweep=...` is short for it."""
    output: str = "docs/results.md"
    """The page, a Markdown file; its folder is made when it is missing."""
    searches: str = MISSING
    """Folder with summaries of demonstration searches; without one the page has no such part."""
    strict: bool = True
    """Refuse damaged or foreign JSON files; false leaves them out with a warning."""
    paths: PathsConfig = MISSING
