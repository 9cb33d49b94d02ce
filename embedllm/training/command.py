"""What `train.py` does: run, then print the table and where things are."""

from __future__ import annotations

import shlex
import sys

from embedllm.config import TrainConfig
from embedllm.invocation import Invocation
from embedllm.launch import launch, needs_launch
from embedllm.log import get_logger, quiet_libraries

_log = get_logger(__name__)


def run_train(config: TrainConfig, invocation: Invocation) -> None:
    """Trains, then prints the scores before and after and the adapter's folder.

    Args:
        config: The checked configuration.
        invocation: The run folder, and the command line for the message on how to resume.
    """
    quiet_libraries()
    from rich.console import Console

    from embedllm.distributed import joined, main_only, share_from_main
    from embedllm.evaluation.report import print_scores
    from embedllm.evaluation.scores import EvaluationResult
    from embedllm.progress import format_seconds
    from embedllm.training.preflight import settle
    from embedllm.training.runner import train

    trainer = config.trainer
    if needs_launch(devices=trainer.devices, num_nodes=trainer.num_nodes):
        launch(sys.argv[0], invocation, run_name=config.run_name, num_processes=trainer.devices)
        return
    root = invocation.folder
    rest = [o for o in invocation.overrides if not o.startswith("run_name=")]
    command = shlex.join(["python", "train.py", *rest, f"run_name={config.run_name}"])
    _log.info("run folder %s; should it stop, this goes on: %s", root, command)
    needs_group = config.strategy.name in ("deepspeed", "fsdp2", "auto")
    timeout = config.strategy.timeout_seconds
    with joined(timeout_seconds=timeout, even_alone=needs_group) as rank:
        config = share_from_main(main_only(lambda: settle(config, root)))
        result = train(config, root, invocation=invocation)
    if not rank.is_main:
        return
    records = {"before": result.before, "after": result.after}
    rows = {name: EvaluationResult.from_dict(record) for name, record in records.items() if record}
    console = Console()
    if rows:
        print_scores(console, rows)
    console.print(f"adapter: {result.adapter}", soft_wrap=True)
    console.print(f"results: {root / 'results'}", soft_wrap=True)
    console.print(f"time: {format_seconds(result.seconds)}")
