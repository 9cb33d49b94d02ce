"""The table of docs/scale.md: which OPT sizes four machines can train, and how.

    python benchmarks/plan_table.py --output benchmarks/results/plan/opt.json

LoRA as in conf/adapter/lora.yaml, bfloat16, 256 triplets of the assumed length in a step. Nothing
is loaded or measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from side_by_side import to_table, write_record

from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.planning.models import ModelAnswer, plan_models
from embedllm.planning.report import models_to_plain

GIB = 2**30
MACHINES = {
    "1 x 24 GB": ("rtx-4090-24gb", 1),
    "1 x 80 GB": ("a100-80gb", 1),
    "8 x 80 GB": ("a100-80gb", 8),
    "8 x 24 GB": ("rtx-4090-24gb", 8),
}


def main() -> int:
    """Prints the table and returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="write the record to this .json file")
    parser.add_argument("overrides", nargs="*", help="of the plan, adapter=full for example")
    options = parser.parse_args()
    answers = {name: ask(*machine, options.overrides) for name, machine in MACHINES.items()}
    sys.stdout.write(table_of(answers))
    record = {name: models_to_plain(each) for name, each in answers.items()}
    write_record(options.output, {"benchmark": "plan_table", "machines": record})
    return 0


def ask(hardware: str, devices: int, overrides: list[str]) -> list[ModelAnswer]:
    """Returns what some devices can train."""
    given = [f"hardware={hardware}", f"trainer.devices={devices}", "data.global_batch_size=256"]
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config: Any = to_typed(compose("plan", overrides=[*given, *overrides]))
    return plan_models(config, CONF_DIR / "model")


def table_of(answers: dict[str, list[ModelAnswer]]) -> str:
    """Returns a row for each size and a column for each machine, as Markdown."""
    rows = []
    for row in zip(*answers.values(), strict=True):
        inventory = row[0].inventory
        rows.append(
            [
                row[0].option,
                f"{inventory.base:,}",
                f"{inventory.trainable.number:,}",
                *(describe(answer) for answer in row),
            ]
        )
    return to_table(["model", "parameters", "trained (LoRA)", *answers], rows)


def describe(answer: ModelAnswer) -> str:
    """Returns strategy, quantisation and checkpointing in a few words, GiB and seconds."""
    candidate = answer.candidate
    way = candidate.way
    words = [way.strategy.title]
    words += [word for word in (way.quantization, way.checkpointing) if word != "none"]
    if candidate.has_small_packs:
        words.append("small packs")
    memory = f"{candidate.memory.total / GIB:.1f} GiB"
    if not candidate.fits:
        return f"no ({', '.join(words)}: {memory})"
    time = "" if candidate.time is None else f", {candidate.time.total:.2g} s"
    return f"{', '.join(words)}: {memory}{time}"


if __name__ == "__main__":
    sys.exit(main())
