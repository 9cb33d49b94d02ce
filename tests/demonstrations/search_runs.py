"""Small searches of made candidates, in this process or another one, and what they leave."""

from __future__ import annotations

import csv
from pathlib import Path

from tiny_runs import compose_typed

from embedllm import cli
from embedllm.config import PromptConfig, SearchConfig
from embedllm.demonstrations import search_command
from embedllm.entry import CONF_DIR

NUM_CANDIDATES = 24
NUM_PAIRS = 200
RUNGS, KEEP = [20, 60, NUM_PAIRS], [10, 4]
SCHEDULE = ["search.rungs=[20,60,200]", "search.keep=[10,4]"]
# Units of a whole search: the candidates of each round, and the prompt without one.
NUM_UNITS = NUM_CANDIDATES + sum(KEEP) + 1


def arguments(candidates: Path, output_dir: Path, *overrides: str) -> list[str]:
    """Returns the command line of a small search; later overrides win."""
    values = dict(
        override.split("=", 1)
        for override in [
            "model=tiny",
            "evaluation=sample",
            *SCHEDULE,
            "save_as=null",
            "run_name=run",
            f"candidates={candidates}",
            f"paths.output_dir={output_dir}",
            f"paths.results_dir={output_dir}/results",
            *overrides,
        ]
    )
    return ["search", *(f"{key}={value}" for key, value in values.items())]


def search(candidates: Path, output_dir: Path, *overrides: str) -> Path:
    """Searches in this process and returns the run's folder."""
    cli.main(arguments(candidates, output_dir, *overrides))
    return output_dir / "run"


def unit_times(folder: Path) -> dict[str, int]:
    """Returns when each unit was written."""
    found = {}
    for path in folder.glob("units-*/*/*.npy"):
        found[f"{path.parent.name}/{path.name}"] = path.stat().st_mtime_ns
    return found


def notes(folder: Path) -> list[list[str]]:
    """Returns one row for each unit that some process computed."""
    rows = []
    for path in sorted(folder.glob("units-*/log/*.csv")):
        rows += [row[:3] for row in csv.reader(path.read_text().splitlines()[1:])]
    return rows


def ranking(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of a search's table, the best first."""
    with (folder / "ranking.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compose_search(candidates: Path, output_dir: Path, conf_dir: Path = CONF_DIR) -> SearchConfig:
    """Returns the config that the command would get."""
    _, *overrides = arguments(candidates, output_dir)
    config = compose_typed("search", *overrides, conf_dir=conf_dir)
    assert isinstance(config, SearchConfig)
    return config


def prompt_of(config: SearchConfig, row: dict[str, str]) -> PromptConfig:
    """Returns the prompt of a candidate, given as its row of the table."""
    values = {key: row[key] for key in ("sentence", "word", "source")}
    return search_command.append_demonstration(
        config.prompt, search_command.DemonstrationConfig(**values)
    )
