"""Fine-tunes the default model on a CSV of pairs, and says what it did on pairs held out.

    python examples/finetune_on_pairs.py examples/pairs.csv
    python examples/finetune_on_pairs.py my.csv data.global_batch_size=64

The CSV has two columns, anchor and positive, whose texts mean the same. A fifth of the rows is held
out; there each anchor has to find its own positive among all of them. What comes behind goes to
the training, which is `embedllm train` in the folder outputs/NAME-OF-THE-CSV, or in --output.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import subprocess
import sys
import time
from pathlib import Path

from embedllm import SentenceEncoder
from embedllm.errors import EmbedllmError

COLUMNS = ("anchor", "positive")
HELD_OUT = 0.2


def split(path: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Returns the rows to train on and those held out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) < 10 or not set(COLUMNS) <= rows[0].keys():
        sys.exit(f"error: {path} must have the columns {', '.join(COLUMNS)} and at least ten rows")
    random.Random(0).shuffle(rows)
    number = round(len(rows) * HELD_OUT)
    return rows[number:], rows[:number]


def write_rows(rows: list[dict[str, str]], folder: Path) -> Path:
    """Writes the rows to train on into the run's folder, unless it is one on others."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    path, content = folder / "train.csv", text.getvalue().encode("utf-8")
    if (folder / "run.json").exists() and not (path.exists() and path.read_bytes() == content):
        sys.exit(f"error: {folder} is a run on other pairs; name another folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found_first(source: str, rows: list[dict[str, str]]) -> float:
    """Returns the share of anchors whose own positive is the most similar one."""
    encoder = SentenceEncoder.load(source)
    anchors, positives = ([row[name] for row in rows] for name in COLUMNS)
    best = encoder.similarity(anchors, positives).argmax(axis=1)
    # Two rows may have the same positive.
    hits = [positives[int(b)] == own for b, own in zip(best, positives, strict=True)]
    return sum(hits) / len(hits)


def main() -> None:
    """Splits, scores, trains, scores again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--model", default="smollm2-135m", help="an option of conf/model")
    parser.add_argument("--output", type=Path, help="the run's folder; default outputs/NAME")
    arguments, overrides = parser.parse_known_args()
    output = arguments.output or Path("outputs") / arguments.csv.stem
    start = time.monotonic()
    rows, held_out = split(arguments.csv)
    train = write_rows(rows, output)

    before = found_first(arguments.model, held_out)
    settings = [
        f"model={arguments.model}",
        # In quotes: names of files have spaces and brackets.
        *("data=nli", f'data.path="{train}"', "data.global_batch_size=32"),
        *("trainer.max_epochs=4", "trainer.activation_checkpointing=packs", "evaluation=none"),
        *(f'paths.output_dir="{output.parent}"', f'run_name="{output.name}"'),
    ]
    command = [sys.executable, "-m", "embedllm", "train", *settings, *overrides]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)  # The training has said why.
    adapter = output / "adapter"
    after = found_first(str(adapter), held_out)

    print(f"held-out pairs: {len(held_out)}")
    print(f"positive found first, before: {before:.0%}")
    print(f"positive found first, after:  {after:.0%}")
    print(f"adapter: {adapter}")
    print(f"time: {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    try:
        main()
    except (EmbedllmError, OSError, UnicodeError, csv.Error) as error:
        sys.exit(f"error: {error}")
