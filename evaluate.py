"""Scores a model, with or without an adapter: `python evaluate.py --help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedllm.entry import run

if TYPE_CHECKING:
    from embedllm.config import EvaluateConfig
    from embedllm.entry import Invocation


def main(config: EvaluateConfig, invocation: Invocation) -> None:
    """Scores and prints the table."""
    from embedllm.evaluation.command import run_evaluate

    run_evaluate(config, invocation)


if __name__ == "__main__":
    run("evaluate", main)
