"""Scores a model, with or without an adapter: `python evaluate.py --help`."""

from embedllm.cli import start

if __name__ == "__main__":
    start("evaluate")
