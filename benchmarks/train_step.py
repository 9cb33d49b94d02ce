"""A training step side by side: this project, sentence-transformers, the plain loop of the paper.

    EMBEDLLM_DATA_DIR=/data python benchmarks/train_step.py
    EMBEDLLM_DATA_DIR=/data python benchmarks/train_step.py --triplets 32 --contestants "plain loop"
    EMBEDLLM_DATA_DIR=/data python benchmarks/train_step.py --estimate
    python benchmarks/train_step.py --model opt-2.7b --dtype bfloat16 --output record.json

One step is one contrastive batch of NLI triplets (without EMBEDLLM_DATA_DIR: of the package's
synthetic ones): texts to token ids, InfoNCE at temperature 0.05, backward pass, clipping, AdamW.
All read the same finished prompts and train the same LoRA (`conf/adapter/lora.yaml`) from the same
initial weights on the same frozen tensors. sentence-transformers gets its trainer with its
defaults: MultipleNegativesRankingLoss, with gradient checkpointing if memory asks for it, and the
cached loss with mini-batches of 16, 32 or 64. The plain loop puts all texts into one padded batch.
`train_contestants.py` has the three of them.

First each way is tried on an eighth and a quarter of the triplets, the longest ones. A line drawn
through the two says what memory the whole batch will need; what needs more than `--memory-gib` is
left out, and of several ways that fit the fastest stays. Then everybody does a step without
dropout, and the run fails with status 1 if the loss or the gradients, as the optimizer gets them,
are not this project's: each gradient by its largest difference, relative to its largest entry, and
all together by their relative distance. The former is not judged in bfloat16, which rounds, and in
models with ReLU, whose units at zero switch with the last bit. Then dropout is on, and all take
turns. Memory is the peak of the warm-up turn: what the step adds (activations, gradients), and with
the weights and the optimizer's state that each would hold alone; ratios are of the latter, the
whole. Models that are not on this disk (`--model opt-1.3b`) have random weights.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from encode import save_copy
from hydra import compose, initialize_config_dir
from side_by_side import Timing, fix_malloc, measure_memory, take_turns, to_table, write_record
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from train_contestants import (
    Contestant,
    Setting,
    Step,
    build_library,
    build_ours,
    build_plain_loop,
    reset_adapter,
    without_dropout,
)

from embedllm.config import TrainConfig
from embedllm.data.examples import load_training_data
from embedllm.data.schema import Example
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.models.backbone import resolve_device
from embedllm.models.loading import load_encoder

GIB = 2**30
OURS = "embedllm"
# bfloat16: 0.05 to 0.09 for all gradients of SmolLM2-135M and of OPT-125M with random weights.
TOLERANCE = {
    "float32": {"loss": 1e-4, "each gradient": 1e-3, "all gradients": 1e-3},
    "bfloat16": {"loss": 0.05, "all gradients": 0.25},
}

Build = Callable[[Setting], Contestant]

# By name the ways to do it, by what tells them apart; see `choose`.
WAYS: dict[str, dict[str, Build]] = {
    OURS: {"": build_ours},
    "sentence-transformers": {
        "gradient_checkpointing=False": build_library,
        "gradient_checkpointing=True": partial(build_library, gradient_checkpointing=True),
    },
    "sentence-transformers cached": {
        f"mini_batch_size={size}": partial(build_library, mini_batch_size=size)
        for size in (16, 32, 64)
    },
    "plain loop": {"gradient_checkpointing=True": build_plain_loop},
}


@dataclass(frozen=True)
class Trial:
    """What one way is expected to need for the whole batch.

    Attributes:
        memory_bytes: What a step adds.
        seconds: Of the larger part that was tried; infinite if that did not fit.
    """

    memory_bytes: float
    seconds: float


@dataclass(frozen=True)
class Choice:
    """A contestant, and why it is what it is.

    Attributes:
        contestant: The way that was taken; None if no way fits into memory.
        way: What tells it from the others.
        trials: Of all ways.
    """

    contestant: Contestant | None
    way: str
    trials: dict[str, Trial]


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    # Garbage is collected before every turn; what was imported need not be looked at each time.
    gc.freeze()
    config = compose_config(options)
    device = resolve_device()
    if device.type == "cpu":
        fix_malloc()
    examples = load_training_data(config.data, seed=options.seed).examples
    with tempfile.TemporaryDirectory() as scratch:
        encoder = load_encoder(config.model, config.prompt, options.cache_dir, device=device)
        folder = save_copy(encoder, config, options.cache_dir, Path(scratch))
        setting = Setting(config, encoder, folder, device)
        names = [OURS, *(name for name in WAYS if name in options.contestants and name != OURS)]
        limit = options.memory_gib * GIB if options.memory_gib else default_limit(device)
        choices = {name: choose(name, setting, examples, limit) for name in names}
        if options.estimate:
            return 0
        contestants = {n: c.contestant for n, c in choices.items() if c.contestant is not None}
        if OURS not in contestants:
            sys.stderr.write("try --checkpointing packs, layers or all\n")
            return 1
        steps = {name: one.build_step(examples) for name, one in contestants.items()}
        differences = compare(contestants, steps, setting)
        timings = take_turns(steps, repeats=options.repeats, memory_of=device)
    record = {
        "benchmark": "train_step",
        "model": options.model,
        "dtype": options.dtype,
        "num_triplets": len(examples),
        "num_tokens": sum(map(len, setting.tokenize(texts_of(examples)))),
        "activation_checkpointing": options.checkpointing,
        "share_prefix": options.share_prefix,
        "ways": {name: choice.way for name, choice in choices.items()},
        "left_out": [name for name in names if name not in contestants],
        "estimated_step_memory_bytes": {
            name: {way: round(trial.memory_bytes) for way, trial in choice.trials.items()}
            for name, choice in choices.items()
        },
        **measures(contestants, timings),
        "differences": differences,
        "is_equal": all(
            difference[what] <= tolerance
            for difference in differences.values()
            for what, tolerance in tolerances(options.dtype, setting.trunk).items()
        ),
    }
    sys.stdout.write(table_of(record, timings))
    write_record(options.output, record)
    if not record["is_equal"]:
        sys.stderr.write(f"losses or gradients differ: {differences}\n")
    return 0 if record["is_equal"] else 1


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--triplets", type=int, default=256, help="of one step; at least 4")
    parser.add_argument("--model", default="smollm2-135m", help="a file of conf/model")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for models without weights")
    parser.add_argument("--dtype", default="float32", choices=TOLERANCE)
    parser.add_argument(
        "--checkpointing",
        default="packs",
        choices=("none", "packs", "layers", "all"),
        help="trainer.activation_checkpointing of this project",
    )
    parser.add_argument(
        "--share-prefix",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="trainer.share_prefix of this project",
    )
    parser.add_argument("--contestants", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--estimate", action="store_true", help="say what memory it takes, no more")
    parser.add_argument("--memory-gib", type=float, help="for a step; default most of what is free")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("EMBEDLLM_DATA_DIR"))
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache/embedllm")
    parser.add_argument("--output", type=Path, help="write the record to this .json file")
    options = parser.parse_args()
    if options.triplets < 4:
        parser.error("--triplets must be at least 4")
    return options


def compose_config(options: argparse.Namespace) -> TrainConfig:
    """Returns the typed config of a training run with one batch of data."""
    overrides = [
        f"model={options.model}",
        f"model.dtype={options.dtype}",
        f"data={'nli' if options.data_dir else 'sample'}",
        f"data.max_examples={options.triplets}",
        f"data.global_batch_size={options.triplets}",
        f"trainer.precision={'32-true' if options.dtype == 'float32' else 'bf16-mixed'}",
        f"trainer.activation_checkpointing={options.checkpointing}",
        f"trainer.share_prefix={options.share_prefix}",
        f"seed={options.seed}",
        "evaluation=none",
        "run_name=benchmark",
    ]
    if options.data_dir:
        overrides.append(f"data.path={Path(options.data_dir) / 'nli/nli_triplets.csv'}")
    if options.model not in ("smollm2-135m", "gemma3-270m"):
        overrides += ["model.init=random", f"model.tokenizer={options.tokenizer or 'bundled'}"]
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = to_typed(compose("train", overrides=overrides))
    assert isinstance(config, TrainConfig)
    return config


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Returns all sentences."""
    return [text for e in examples for text in (e.anchor, e.positive, *e.negatives)]


def default_limit(device: torch.device) -> float:
    """Returns most of the memory that is free now, in bytes."""
    if device.type == "cuda":
        return 0.9 * torch.cuda.mem_get_info(device)[0]
    return 0.75 * psutil.virtual_memory().available


def choose(name: str, setting: Setting, examples: Sequence[Example], limit: float) -> Choice:
    """Returns the fastest way of one contestant that fits into memory."""
    trials, best = {}, Choice(None, "", {})
    for way, build in WAYS[name].items():
        contestant = build(setting)
        trial = trials[way] = try_out(contestant, examples, limit)
        is_best = best.contestant is None or trial.seconds < trials[best.way].seconds
        fits = trial.memory_bytes <= limit
        sys.stderr.write(
            f"{f'{name} {way}'.strip()}: a step of {len(examples)} triplets needs about "
            f"{trial.memory_bytes / GIB:.1f} GiB beside the model"
            f"{'' if fits else f', more than the limit of {limit / GIB:.1f} (--memory-gib)'}\n"
        )
        if fits and is_best:
            best = Choice(contestant, way, {})
    return Choice(best.contestant, best.way, trials)


def try_out(contestant: Contestant, examples: Sequence[Example], limit: float) -> Trial:
    """Returns what a step of all examples is expected to need, from steps of a part of them.

    The part is of the longest examples, so rows are padded as in the whole batch.
    """
    number = len(examples)
    longest = sorted(examples, key=lambda e: -max(map(len, texts_of([e]))))
    device = contestant.adapter[0].device
    small, large = max(2, number // 8), max(4, number // 4)
    first, _ = measure_memory(contestant.build_step(longest[:small]), device)
    if first * large / small > limit:
        return Trial(first * number / small, float("inf"))
    second, seconds = measure_memory(contestant.build_step(longest[:large]), device)
    until = min(number, contestant.plateau or number)
    slope = (second - first) / (large - small)
    return Trial(max(second, second + slope * (until - large)), seconds)


def compare(
    contestants: Mapping[str, Contestant], steps: Mapping[str, Step], setting: Setting
) -> dict[str, dict[str, float]]:
    """Returns how far losses and gradients are from this project's, without dropout.

    Raises:
        ValueError: A gradient of this project is zero, which any other zero would equal.
    """
    found: dict[str, tuple[float, list[Tensor]]] = {}
    for name, contestant in contestants.items():
        reset_adapter(contestant, setting)
        with without_dropout(contestant.model), kept_gradients(contestant) as gradients:
            found[name] = steps[name](), gradients
        reset_adapter(contestant, setting)
    expected_loss, expected = found.pop(OURS)
    if not all(gradient.any() for gradient in expected):
        raise ValueError("a gradient is zero, so there is nothing to compare")
    return {
        name: {
            "loss": abs(loss - expected_loss) / abs(expected_loss),
            "each gradient": max(
                float((mine - theirs).abs().max() / mine.abs().max())
                for mine, theirs in zip(expected, gradients, strict=True)
            ),
            "all gradients": float(
                (flat(gradients) - flat(expected)).norm() / flat(expected).norm()
            ),
        }
        for name, (loss, gradients) in found.items()
    }


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the entries of all tensors."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def tolerances(dtype: str, model: nn.Module) -> dict[str, float]:
    """Returns how far which figure of `compare` may be off."""
    has_kinks = any(isinstance(module, nn.ReLU) for module in model.modules())
    return {k: v for k, v in TOLERANCE[dtype].items() if not (has_kinks and k == "each gradient")}


@contextmanager
def kept_gradients(contestant: Contestant) -> Any:
    """Yields a list that gets the adapter's gradients when an optimizer is about to use them."""
    gradients: list[Tensor] = []

    def keep(optimizer: Optimizer, *arguments: object) -> None:
        gradients[:] = [p.grad.float().cpu().clone() for p in contestant.adapter]

    handle = register_optimizer_step_pre_hook(keep)
    try:
        yield gradients
    finally:
        handle.remove()


def measures(
    contestants: Mapping[str, Contestant], timings: Mapping[str, Timing]
) -> dict[str, dict[str, Any]]:
    """Returns time and memory of all contestants, and their ratios to this project's."""
    step_bytes = {name: timing.memory_bytes or 0 for name, timing in timings.items()}
    peak_bytes = {name: step_bytes[name] + held_bytes(one) for name, one in contestants.items()}
    return {
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "median_seconds": {name: timing.median for name, timing in timings.items()},
        "ratio": {name: t.median / timings[OURS].median for name, t in timings.items()},
        "step_memory_bytes": step_bytes,
        "peak_memory_bytes": peak_bytes,
        "memory_ratio": {name: peak / peak_bytes[OURS] for name, peak in peak_bytes.items()},
    }


def held_bytes(contestant: Contestant) -> int:
    """Returns what a contestant would hold between steps, were it alone: weights and AdamW."""
    tensors = [*contestant.model.parameters(), *contestant.model.buffers()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) + 2 * sum(p.nbytes for p in contestant.adapter)


def table_of(record: Mapping[str, Any], timings: Mapping[str, Timing]) -> str:
    """Returns the table of a record."""
    differences = record["differences"]
    header = ["", "triplets/s", "median s", "slowest/fastest", "time / embedllm", "peak GiB"]
    header += ["of it the step", "peak / embedllm"]
    header += [f"difference: {what}" for what in next(iter(differences.values()), ())]
    rows = []
    for name, timing in timings.items():
        row = [
            f"{name} {record['ways'][name]}".strip(),
            f"{record['num_triplets'] / timing.median:.2f}",
            f"{timing.median:.2f}",
            f"{timing.spread:.2f}",
            f"{record['ratio'][name]:.2f}",
            f"{record['peak_memory_bytes'][name] / GIB:.2f}",
            f"{record['step_memory_bytes'][name] / GIB:.2f}",
            f"{record['memory_ratio'][name]:.2f}",
            *(f"{value:.1e}" for value in differences.get(name, {}).values()),
        ]
        rows.append([*row, *[""] * (len(header) - len(row))])
    return to_table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
