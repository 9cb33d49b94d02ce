"""Scores a model, with or without an adapter: `python evaluate.py --help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedllm.entry import run

if TYPE_CHECKING:
    from embedllm.config import EvaluateConfig


def main(config: EvaluateConfig, overrides: list[str]) -> None:
    """Scores and prints the table."""
    from embedllm.evaluation.command import run_evaluate

    run_evaluate(config, overrides)


if __name__ == "__main__":
    run("evaluate", main)
