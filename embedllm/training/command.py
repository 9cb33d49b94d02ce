"""What `train.py` does: run, then print the table and where things are."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedllm import program
from embedllm.config import TrainConfig, training_identity
from embedllm.console import print_line
from embedllm.data.examples import load_training_data
from embedllm.invocation import Invocation
from embedllm.launch import launch, needs_launch
from embedllm.log import get_logger, quiet_libraries
from embedllm.run_state import RunState, note_seconds, read_run_state

if TYPE_CHECKING:
    from rich.console import Console

_log = get_logger(__name__)


def run_train(config: TrainConfig, invocation: Invocation) -> float | None:
    """Trains, then prints the scores before and after and the adapter's folder.

    A run of a sweep that is already done is left alone.

    Args:
        config: The checked configuration.
        invocation: The run folder, and the command line for the message on how to resume.

    Returns:
        What a search maximises: the dev score of the adapter, else the average after training;
        None on ranks other than the first, and without any score.
    """
    if config.sweep_name is not None and (state := _find_done(config, invocation.folder)):
        _log.info("done before, skipped: %s", invocation.folder)
        return state.objective
    trainer = config.trainer
    if needs_launch(devices=trainer.devices, num_nodes=trainer.num_nodes):
        launch("train", invocation, run_name=config.run_name, num_processes=trainer.devices)
        return read_run_state(invocation.folder).objective
    # Not before: who starts the processes needs none of these.
    quiet_libraries()
    from embedllm.distributed import joined, main_only, share_from_main
    from embedllm.evaluation.report import print_scores, scores_to_plain
    from embedllm.evaluation.scores import EvaluationResult
    from embedllm.progress import format_seconds
    from embedllm.training.preflight import settle
    from embedllm.training.runner import train

    root = invocation.folder
    command = shlex.join([*program.words("train"), *_overrides_to_resume(config, invocation)])
    _log.info("run folder %s; should it stop, this goes on: %s", root, command)
    needs_group = config.strategy.name in ("deepspeed", "fsdp2", "auto")
    timeout = config.strategy.timeout_seconds
    with joined(timeout_seconds=timeout, even_alone=needs_group) as rank:
        config = share_from_main(main_only(lambda: settle(config, root)))
        result = train(config, root, invocation=invocation)
    if not rank.is_main:
        return None
    note_seconds(root, result.seconds)
    records = {"before": result.before, "after": result.after}
    rows = {name: EvaluationResult.from_dict(record) for name, record in records.items() if record}
    found: dict[str, Any] = {name: scores_to_plain(row) for name, row in rows.items()}
    found |= {"adapter": str(result.adapter), "results": str(root / "results")}

    def draw(console: Console) -> None:
        if rows:
            print_scores(console, rows)
        print_line(console, f"adapter: {found['adapter']}")
        print_line(console, f"results: {found['results']}")
        print_line(console, f"time: {format_seconds(result.seconds)}")

    invocation.show({**found, "seconds": result.seconds}, draw)
    return read_run_state(root).objective


def _find_done(config: TrainConfig, folder: Path) -> RunState | None:
    """Returns the state of a run that needs nothing more; None for all others.

    The data is read again, for a file can change under its name. What was trained on other data
    is no done run of this configuration, and the run itself says so.
    """
    state = read_run_state(folder)
    if state.status != "done" or state.manifest is None:
        return None
    saved = dict(state.manifest["identity"])
    data_sha256 = saved.pop("data_sha256")
    identity = json.loads(json.dumps(training_identity(config), default=str))
    if config.strategy.name == "auto":
        # The planner may have chosen it.
        saved["data"]["tokens_per_pack"] = identity["data"]["tokens_per_pack"]
    if saved != identity:
        return None
    # Data of the hub come with progress bars.
    quiet_libraries()
    is_same = load_training_data(config.data, seed=config.seed).sha256 == data_sha256
    return state if is_same else None


def _overrides_to_resume(config: TrainConfig, invocation: Invocation) -> list[str]:
    """Returns the command line of this run alone, also when it is one of a sweep."""
    rest = [o for o in invocation.overrides if not o.startswith("run_name=")]
    is_of_sweep = any(o.startswith("sweep=") for o in rest)
    return [*rest, f"run_name={config.run_name}", *(["hydra.mode=RUN"] if is_of_sweep else [])]
