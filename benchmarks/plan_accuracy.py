"""The planner's estimate of memory beside the measured peak of real training steps.

    python benchmarks/plan_accuracy.py --output benchmarks/results/plan/accuracy-cpu.json
    python benchmarks/plan_accuracy.py --only smollm2 --all
    python benchmarks/plan_accuracy.py --floor
    python benchmarks/plan_accuracy.py --again benchmarks/results/plan/accuracy-cpu.json

Every combination is a training in a process of its own (in two where a strategy wants them): the
code of `train.py` with random weights, synthetic triplets and no evaluation, for two optimizer
steps, behind which the process' largest resident memory is read. So it is before the first of them,
when the model is loaded. The estimate is of the whole, too:
the plan of the same configuration for the same batch (plan.read_data), with hardware.floor_gib for
interpreter and libraries. That floor is what a model of two tiny layers takes (`--floor`).

What is estimated is living memory, so glibc must not keep what was freed: the processes run with
MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ set, so that it hands large blocks back at once.
A combination that cannot run here (no bitsandbytes, no DeepSpeed) is listed with the reason. A
changed planner can be compared with the measurements of a record (`--again`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from side_by_side import to_table, write_record

from embedllm.config import PlanConfig, TrainConfig
from embedllm.distributed import is_joined, joined
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.planning.answers import build_planner
from embedllm.planning.ways import CHOICES
from embedllm.ranks import current_rank
from embedllm.training import fit, runner

GIB = 2**30
STEPS = 2
MODELS = {
    "opt-125m": ["model=opt-125m"],
    # The tokenizer here begins texts with id 2, which must not be the padding, a row of zeros.
    "smollm2-135m": [
        "model=smollm2-135m",
        "model.gguf_package=null",
        "model.architecture.pad_token_id=1",
    ],
}
# Blocks above 64 KiB go back to the system when they are freed, and so does the end of the heap.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Combination:
    """One training."""

    model: str
    dtype: str = "float32"
    adapter: str = "lora"
    checkpointing: str = "none"
    batch: int = 16
    quantization: str = "none"
    strategy: str = "single"

    @property
    def num_processes(self) -> int:
        """Processes of the training."""
        return 1 if self.strategy == "single" else 2

    @property
    def overrides(self) -> list[str]:
        """What the training's command line says."""
        return [
            *MODELS[self.model],
            "model.init=random",
            "model.tokenizer=bundled",
            f"model.dtype={self.dtype}",
            f"model.quantization={self.quantization}",
            f"adapter={self.adapter}",
            "data=sample",
            f"data.global_batch_size={self.batch}",
            f"strategy={self.strategy}",
            f"trainer.devices={self.num_processes}",
            "trainer.accelerator=cpu",
            f"trainer.activation_checkpointing={self.checkpointing}",
        ]

    @property
    def cells(self) -> list[str]:
        """The columns of the table that tell it from the others."""
        names = ("model", "dtype", "adapter", "checkpointing", "batch", "quantization", "strategy")
        return [str(getattr(self, name)) for name in names]


def default_combinations() -> list[Combination]:
    """Returns combinations in which every option appears with every other kind of model."""
    opt, smol = MODELS
    return [
        Combination(opt),
        Combination(opt, checkpointing="packs"),
        Combination(opt, checkpointing="layers"),
        Combination(opt, checkpointing="all"),
        Combination(opt, batch=64),
        Combination(opt, batch=64, checkpointing="packs"),
        Combination(opt, batch=64, checkpointing="layers"),
        Combination(opt, "bfloat16"),
        Combination(opt, "bfloat16", checkpointing="packs"),
        Combination(opt, adapter="full"),
        Combination(opt, adapter="full", checkpointing="packs"),
        Combination(opt, adapter="full", checkpointing="layers"),
        Combination(opt, "bfloat16", adapter="full", batch=64),
        Combination(smol),
        Combination(smol, checkpointing="packs"),
        Combination(smol, "bfloat16", checkpointing="layers"),
        Combination(smol, adapter="full", checkpointing="packs"),
        *spread_combinations(),
    ]


def spread_combinations() -> list[Combination]:
    """Returns quantised bases and several processes."""
    opt, _ = MODELS
    whole = ("ddp", "deepspeed_zero1", "deepspeed_zero2")
    # Where weights are in pieces, packs that are computed again go another way.
    ways = [
        *((name, "packs") for name in whole),
        *product(("deepspeed_zero3", "fsdp2"), ("none", "packs")),
    ]
    quantizations = ("nf4", "int8")
    return [
        *(
            Combination(opt, checkpointing=checkpointing, quantization=quantization)
            for quantization in quantizations
            for checkpointing in ("none", "packs", "layers")
        ),
        *(Combination(opt, quantization=name, strategy="ddp") for name in quantizations),
        Combination(opt, "bfloat16", checkpointing="packs", strategy="ddp"),
        Combination(opt, "bfloat16", adapter="full", checkpointing="packs", strategy="ddp"),
        *(
            Combination(opt, "bfloat16", strategy=name)
            for name in ("deepspeed_zero2", "deepspeed_zero3", "fsdp2")
        ),
        *(
            Combination(opt, adapter=adapter, checkpointing=checkpointing, strategy=name)
            for adapter in ("lora", "full")
            for name, checkpointing in ways
        ),
        *(
            Combination(opt, quantization=quantization, strategy="deepspeed_zero3")
            for quantization in quantizations
        ),
    ]


def all_combinations() -> list[Combination]:
    """Returns every combination of one process without quantisation, then the others."""
    every = product(
        MODELS,
        ("float32", "bfloat16"),
        ("lora", "full"),
        ("none", "packs", "layers", "all"),
        (16, 64),
    )
    return [*(Combination(*values) for values in every), *spread_combinations()]


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    options = parse_options()
    if options.child:
        run_child(options.child, options.record)
        return 0
    if options.floor:
        peaks = measure(["debug=tiny", "evaluation=none", "trainer.accelerator=cpu"], 1)
        sys.stdout.write(f"hardware.floor_gib={peaks['measured'] / GIB:.3f}\n")
        return 0
    combinations = all_combinations() if options.all else default_combinations()
    known = read_measurements(options.again)
    if known:
        combinations = list(known)
    rows = []
    for combination in combinations:
        if options.only in " ".join(combination.cells):
            rows.append(compare(combination, known.get(combination)))
            sys.stderr.write(f"{rows[-1]}\n")
    sys.stdout.write(table_of(rows))
    ratios = [row["ratio"] for row in rows if row["ratio"]]
    record = {"benchmark": "plan_accuracy", "steps": STEPS, "malloc": MALLOC, "rows": rows}
    write_record(options.output, record)
    return 0 if all(abs(ratio - 1) <= options.tolerance for ratio in ratios) else 1


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="every combination, not a choice")
    parser.add_argument("--only", default="", help="those whose row has this text")
    parser.add_argument("--floor", action="store_true", help="measure the libraries alone")
    parser.add_argument("--again", type=Path, nargs="+", default=[], help="records to read")
    parser.add_argument("--tolerance", type=float, default=0.1, help="for the exit status")
    parser.add_argument("--output", type=Path, help="write the record to this .json file")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def read_measurements(paths: Sequence[Path]) -> dict[Combination, dict[str, Any]]:
    """Returns the rows of some records, those of the last one where several have the same."""
    rows = [row for path in paths for row in json.loads(path.read_text())["rows"]]
    names = Combination.__dataclass_fields__
    return {Combination(**{name: row[name] for name in names}): row for row in rows}


def compare(combination: Combination, known: dict[str, Any] | None) -> dict[str, Any]:
    """Returns estimate and measurement of one combination, in bytes.

    Args:
        combination: The training.
        known: A row with its measurement; None to measure.
    """
    memory = estimate(combination)
    row: dict[str, Any] = {**vars(combination), "estimate": memory.total, "parts": vars(memory)}
    if known is None:
        try:
            overrides = [*combination.overrides, "evaluation=none"]
            known = measure(overrides, combination.num_processes)
        except RuntimeError as error:
            known = {"measured": None, "reason": str(error)}
    row |= {name: known[name] for name in ("loaded", "measured", "reason") if name in known}
    row["ratio"] = row["estimate"] / row["measured"] if row["measured"] else None
    return row


def estimate(combination: Combination) -> Any:
    """Returns the planned memory of one process, by part."""
    # Rates are not asked for, and measuring them takes longer than the rest.
    rates = ["hardware.bf16_tflops=1", "hardware.fp32_tflops=1"]
    overrides = [*combination.overrides, "hardware=cpu", *rates, "plan.read_data=true"]
    config = to_typed(composed("plan", overrides))
    assert isinstance(config, PlanConfig)
    planner = build_planner(config)
    [way] = planner.ways(CHOICES)
    return planner.memory(way)


def measure(overrides: Sequence[str], num_processes: int) -> dict[str, int]:
    """Returns the largest peaks of the processes of a training, in bytes: loading and in all.

    Raises:
        RuntimeError: It cannot run here; the message is its last line.
    """
    environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        folders = [f"paths.output_dir={scratch}", f"paths.results_dir={scratch}/results"]
        launcher = [sys.executable]
        if num_processes > 1:
            arguments = ("--nproc-per-node", str(num_processes), "--rdzv-endpoint", "localhost:0")
            launcher += ["-m", "torch.distributed.run", "--rdzv-backend", "c10d", *arguments]
        command = [*launcher, __file__, "--record", f"{scratch}/peaks", "--child", *overrides]
        ended = subprocess.run(
            [*command, *folders, f"paths.cache_dir={scratch}/cache"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        peaks = [json.loads(path.read_text()) for path in Path(scratch).glob("peaks-*")]
    if len(peaks) < num_processes:
        raise RuntimeError(find_error(ended.stderr))
    return {name: max(peak[name] for peak in peaks) for name in ("loaded", "measured")}


def find_error(said: str) -> str:
    """Returns the line of an error stream that says what went wrong."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search("Error|Exception|^error:", line)]
    return (errors or lines or ["no message"])[-1].strip()


def run_child(overrides: Sequence[str], record: Path) -> None:
    """Trains for a few steps and writes the peak behind each of them."""
    steps = [
        f"trainer.max_steps={STEPS}",
        "trainer.log_every_n_steps=1",
        "trainer.checkpoint_every_n_steps=1000",
        "run_name=run",
    ]
    config = to_typed(composed("train", [*overrides, *steps]))
    train_watched(config, _NotePeak(record))


def train_watched(config: TrainConfig, callback: pl.Callback) -> None:
    """Runs a training as `train.py` does, with one more callback behind all others."""
    build_trainer = fit._build_trainer

    def build(*arguments: Any) -> pl.Trainer:
        trainer = build_trainer(*arguments)
        trainer.callbacks.append(callback)  # type: ignore[attr-defined]
        return trainer

    fit._build_trainer = build
    is_library_with_group = config.strategy.name in ("deepspeed", "fsdp2")
    with joined(timeout_seconds=60, even_alone=is_library_with_group):
        runner.train(config, Path(config.paths.output_dir) / "run")


class _NotePeak(pl.Callback):
    """Writes the process' largest resident memory before the first and after the last step."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The model is loaded, and the strategy has not touched it.
        self._loaded = peak_memory()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step < STEPS:
            # The optimizer makes its state in the first step.
            return
        peaks = {"loaded": self._loaded, "measured": peak_memory()}
        path = self._record.with_name(f"{self._record.name}-{current_rank().rank}")
        path.write_text(json.dumps(peaks))
        if is_joined():
            dist.barrier()
        # What follows, the adapter's folder and its probe, is not asked for.
        os._exit(0)


def peak_memory() -> int:
    """Returns the largest resident memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def composed(name: str, overrides: Sequence[str]) -> Any:
    """Returns a composed configuration."""
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Returns one row for each combination, as Markdown."""
    header = ["model", "type", "adapter", "checkpointing", "batch", "quantisation", "strategy"]
    table = []
    for row in rows:
        cells = [str(row[name]) for name in Combination.__dataclass_fields__]
        if row["measured"] is None:
            table.append([*cells, f"{row['estimate'] / GIB:.2f}", "-", row.get("reason", "-")])
            continue
        figures = (row["estimate"] / GIB, row["measured"] / GIB, row["ratio"])
        table.append([*cells, *(f"{figure:.2f}" for figure in figures)])
    return to_table([*header, "estimate GiB", "measured GiB", "ratio"], table)


if __name__ == "__main__":
    sys.exit(main())
