"""Fine-tunes a decoder LLM into a sentence embedder: `python train.py --help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedllm.entry import run

if TYPE_CHECKING:
    from embedllm.config import TrainConfig


def main(config: TrainConfig, overrides: list[str]) -> None:
    """Trains and prints the scores before and after."""
    from embedllm.training.command import run_train

    run_train(config, overrides)


if __name__ == "__main__":
    run("train", main)
