"""Training steps of the OPT sizes on this machine's device, beside what the planner says of them.

    python benchmarks/opt_sizes.py --output benchmarks/results/speed/opt-sizes.json
    python benchmarks/opt_sizes.py --models opt-66b --steps 3
    python benchmarks/opt_sizes.py --models opt-2.7b --overrides model.quantization=nf4

Every size is a training in a process of its own: the code of `train.py` with random weights, LoRA
and synthetic triplets, in the way that the plan of this machine recommends; what `--overrides` says
of strategy, quantisation and checkpointing stays. Measured are the seconds until the model is
loaded and the host memory that this took at most, the seconds of a step (the median, without the
first, in which kernels are chosen), real tokens a second, the device's largest memory, and the
operations that the plain model needs as a share of the fastest matrix product here. The memory is
all that the process holds on the device; the planner's figure beside it counts the same. A size
that does not fit, or fails, is a row with the reason, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from plan_accuracy import GIB, MALLOC, composed, find_error, peak_memory, train_watched
from side_by_side import to_table, write_record

from embedllm.config import PlanConfig
from embedllm.entry import to_typed
from embedllm.errors import EmbedllmError
from embedllm.planning.answers import plan
from embedllm.planning.train_command import fixed_choices, train_arguments

MODELS = ("opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b", "opt-30b", "opt-66b")
HEADER = [
    *("model", "way", "steps/s", "tokens/s", "of ceiling", "seconds, planned"),
    *("peak GiB", "planned GiB", "ratio", "loaded in s", "host GiB"),
]


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    options = parse_options()
    if options.child:
        run_child(options)
        return 0
    rows = []
    for model in options.models:
        rows.append(run_size(model, options))
        sys.stderr.write(f"{rows[-1]}\n")
        # Device time is scarce: what was measured stays, whatever the next size does.
        write_record(options.output, {"benchmark": "opt_sizes", "rows": rows})
    sys.stdout.write(to_table(HEADER, [cells(row) for row in rows]))
    ratios = [row["planned_bytes"] / row["peak_bytes"] for row in rows if "peak_bytes" in row]
    is_whole = len(ratios) == len(rows)
    return 0 if is_whole and all(abs(ratio - 1) <= options.tolerance for ratio in ratios) else 1


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="files of conf/model")
    parser.add_argument("--batch", type=int, default=256, help="triplets of a step")
    parser.add_argument("--steps", type=int, default=6, help="steps of each size, one to warm up")
    parser.add_argument("--seconds", type=int, default=300, help="the most for one size")
    parser.add_argument("--overrides", nargs="+", default=[], help="of plan and training")
    parser.add_argument("--tolerance", type=float, default=0.1, help="for the exit status")
    parser.add_argument("--output", type=Path, help="write the record to this .json file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_size(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the row of one size, with the reason where there are no figures."""
    with tempfile.TemporaryDirectory() as scratch:
        record = Path(scratch, "record.json")
        arguments = ["--child", model, "--record", str(record)]
        arguments += ["--batch", str(options.batch), "--steps", str(options.steps)]
        overrides = [*options.overrides, f"paths.output_dir={scratch}"]
        try:
            ended = subprocess.run(
                [sys.executable, __file__, *arguments, "--overrides", *overrides],
                env={**os.environ, **MALLOC},
                capture_output=True,
                text=True,
                check=False,
                timeout=options.seconds,
            )
        except subprocess.TimeoutExpired:
            return {"model": model, "reason": f"not done in {options.seconds} s"}
        if record.exists():
            return {"model": model, **json.loads(record.read_text())}
        return {"model": model, "reason": find_error(ended.stderr)}


def run_child(options: argparse.Namespace) -> None:
    """Plans and trains one size, and writes its row."""
    overrides = [
        f"model={options.child}",
        "model.init=random",
        "model.tokenizer=bundled",
        "data=sample",
        f"data.global_batch_size={options.batch}",
        *options.overrides,
    ]
    asked = to_typed(composed("plan", [*overrides, "hardware=local", "plan.read_data=true"]))
    assert isinstance(asked, PlanConfig)
    trainer = "gpu" if torch.cuda.is_available() else "default"
    arguments = train_arguments(overrides, {"trainer": trainer})
    try:
        planned = plan(asked, fixed=fixed_choices(overrides), arguments=arguments)
        if planned.recommended is None:
            nearest = planned.nearest
            raise EmbedllmError(f"does not fit: {nearest.way} is {nearest.problem}")
    except EmbedllmError as error:
        options.record.write_text(json.dumps({"reason": str(error)}))
        return
    best, hardware = planned.recommended, planned.hardware
    config = to_typed(
        composed(
            "train",
            [
                *shlex.split(planned.command)[2:],
                "evaluation=none",
                "run_name=run",
                f"trainer.max_steps={options.steps}",
                f"trainer.checkpoint_every_n_steps={options.steps + 1}",
                "trainer.max_epochs=1000",
            ],
        )
    )
    is_half = config.model.dtype != "float32" and hardware.kind == "cuda"
    row: dict[str, Any] = {
        "way": str(best.way),
        "parameters": planned.inventory.base,
        "trained": planned.inventory.trainable.number,
        "device": torch.cuda.get_device_name() if hardware.kind == "cuda" else "cpu",
        "ceiling": hardware.flops_16 if is_half else hardware.flops_32,
        "useful_flops_per_token": best.flops.useful / planned.workload.text_tokens,
        "planned_bytes": best.memory.total,
        "planned_parts": vars(best.memory),
        "planned_seconds": best.time.total if best.time else None,
    }
    train_watched(config, _Watch(row, options, time.perf_counter()))


class _Watch(pl.Callback):
    """Notes seconds, tokens and memory, and ends the process behind the last step."""

    def __init__(self, row: dict[str, Any], options: argparse.Namespace, start: float) -> None:
        self._row = row
        self._options = options
        self._start = start
        self._seconds: list[float] = []
        self._tokens: list[int] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._row["loaded_seconds"] = time.perf_counter() - self._start
        self._row["host_bytes"] = peak_memory()

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self._since = _now()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seconds.append(_now() - self._since)
        self._tokens.append(batch.num_tokens)
        if trainer.global_step < self._options.steps:
            return
        seconds = statistics.median(self._seconds[1:])
        rate = sum(self._tokens[1:]) / sum(self._seconds[1:])
        self._row |= {
            "step_seconds": self._seconds,
            "seconds": seconds,
            "tokens_per_second": rate,
            "of_ceiling": rate * self._row["useful_flops_per_token"] / self._row["ceiling"],
            **_device_memory(),
        }
        self._options.record.write_text(json.dumps(self._row))
        # What follows, the adapter's folder and its probe, is not asked for.
        os._exit(0)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _device_memory() -> dict[str, int]:
    """Returns the most that this process held on the device, in bytes."""
    if not torch.cuda.is_available():
        return {"peak_bytes": peak_memory()}
    free, whole = torch.cuda.mem_get_info()
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    # The context and the libraries' own, which torch does not count.
    beside = whole - free - torch.cuda.memory_reserved()
    return {
        "peak_bytes": allocated + beside,
        "allocated_bytes": allocated,
        "reserved_bytes": reserved,
    }


def cells(row: dict[str, Any]) -> Sequence[str]:
    """Returns a line of the table."""
    if "seconds" not in row:
        return [row["model"], row["reason"], *["-"] * (len(HEADER) - 2)]
    planned = row["planned_seconds"]
    return [
        row["model"],
        row["way"],
        f"{1 / row['seconds']:.2f}",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['of_ceiling']:.2f}",
        f"{row['seconds']:.2f}, {'-' if planned is None else f'{planned:.2f}'}",
        f"{row['peak_bytes'] / GIB:.2f}",
        f"{row['planned_bytes'] / GIB:.2f}",
        f"{row['planned_bytes'] / row['peak_bytes']:.2f}",
        f"{row['loaded_seconds']:.0f}",
        f"{row['host_bytes'] / GIB:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
