"""Fine-tunes a decoder LLM into a sentence embedder: `python train.py --help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedllm.entry import run

if TYPE_CHECKING:
    from embedllm.config import TrainConfig
    from embedllm.entry import Invocation


def main(config: TrainConfig, invocation: Invocation) -> float | None:
    """Trains, prints the scores before and after, and returns what a search maximises."""
    from embedllm.training.command import run_train

    return run_train(config, invocation)


if __name__ == "__main__":
    run("train", main)
