"""Scores a model, with or without an adapter: `python evaluate.py --help`."""

from embedllm.cli import start
from embedllm.ranks import left_at_once

if __name__ == "__main__":
    with left_at_once():
        start("evaluate")
