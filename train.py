"""Fine-tunes a decoder LLM into a sentence embedder: `python train.py --help`."""

from embedllm.cli import start

if __name__ == "__main__":
    start("train")
