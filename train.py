"""Fine-tunes a decoder LLM into a sentence embedder: `python train.py --help`."""

from embedllm.cli import start
from embedllm.ranks import left_at_once

if __name__ == "__main__":
    with left_at_once():
        start("train")
