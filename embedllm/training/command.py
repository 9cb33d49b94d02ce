"""What `train.py` does: run, then print the table and where things are."""

from __future__ import annotations

import shlex
from pathlib import Path

from embedllm.config import TrainConfig
from embedllm.log import get_logger, quiet_libraries

_log = get_logger(__name__)


def run_train(config: TrainConfig, root: Path, *, overrides: list[str]) -> None:
    """Trains, then prints the scores before and after and the adapter's folder.

    Args:
        config: The checked configuration.
        root: The run folder.
        overrides: The command line, for the message on how to resume.
    """
    quiet_libraries()
    from rich.console import Console

    from embedllm.evaluation.report import format_scores
    from embedllm.evaluation.sts import STSResult
    from embedllm.progress import format_seconds
    from embedllm.training.runner import train

    rest = [o for o in overrides if not o.startswith("run_name=")]
    command = shlex.join(["python", "train.py", *rest, f"run_name={config.run_name}"])
    _log.info("run folder %s; should it stop, this goes on: %s", root, command)
    result = train(config, root)
    records = {"before": result.before, "after": result.after}
    rows = {name: STSResult.from_dict(record) for name, record in records.items() if record}
    console = Console()
    if rows:
        console.print(format_scores(rows))
    console.print(f"adapter: {result.adapter}", soft_wrap=True)
    console.print(f"results: {root / 'results'}", soft_wrap=True)
    console.print(f"time: {format_seconds(result.seconds)}")
