"""How the cost of encoding and of a training step grows, as a table and a picture.

    EMBEDLLM_DATA_DIR=/data python benchmarks/scaling.py --picture scaling.svg
    EMBEDLLM_DATA_DIR=/data python benchmarks/scaling.py --axes length size --output record.json

Along every axis one quantity grows and all else stays: the number of sentences, their length in
tokens (random words, which share no beginnings), the demonstrations in front of every sentence, and
the parameters of the model (OPT shapes with random weights). The points of an axis take turns in
one process, and medians are fitted with a power law: time = constant * quantity ** exponent. An
exponent of 1 is proportional cost; below 1 something is shared, above 1 something grows faster.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from side_by_side import take_turns, to_table, write_record

from embedllm.config import TrainConfig
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.evaluation.tasks import PAPER_TASKS, load_tasks
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.adapters import attach_adapter
from embedllm.models.backbone import resolve_device
from embedllm.models.embed_rows import embed_rows
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.models.packing import default_pack_tokens

AXES = {
    "sentences": "sentences",
    "length": "tokens of a sentence",
    "demonstrations": "tokens of demonstrations",
    "size": "parameters of the trunk",
}
NUM_SENTENCES = {"cpu": (48, 96, 192, 384), "cuda": (1024, 4096, 16384)}
NUM_WORDS = (4, 8, 16, 32, 64, 128)
NUM_DEMONSTRATIONS = (0, 1, 2, 4, 8)
SIZES = {
    "cpu": ("opt-125m", "opt-350m", "opt-1.3b"),
    "cuda": ("opt-125m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b"),
}
DEMONSTRATION = 'This sentence : "A man is playing a guitar." means in one word:"Music".'


@dataclass(frozen=True)
class Point:
    """One measured setting.

    Attributes:
        quantity: What grows along the axis.
        encode: Encodes the sentences once.
        train: One forward and backward pass over them as triplets.
    """

    quantity: float
    encode: Callable[[], Any]
    train: Callable[[], Any]


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    sentences = read_sentences(options.data_dir)
    curves = {axis: measure(axis, sentences, options) for axis in options.axes}
    rows = [
        [axis, f"{quantity:,.0f}", f"{encode:.3f}", f"{train:.3f}"]
        for axis, curve in curves.items()
        for quantity, encode, train in zip(
            curve["quantity"], curve["encode"], curve["train"], strict=True
        )
    ]
    sys.stdout.write(to_table(["axis", "quantity", "encode s", "train s"], rows))
    exponents = [
        [axis, *(f"{curve['exponent'][what]:.2f}" for what in ("encode", "train"))]
        for axis, curve in curves.items()
    ]
    sys.stdout.write("\n" + to_table(["exponent of", "encode", "train"], exponents))
    write_record(options.output, {"benchmark": "scaling", "model": options.model, "axes": curves})
    if options.picture is not None:
        draw(curves, options.picture)
    return 0


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    parser.add_argument("--model", default="smollm2-135m", help="a file of conf/model")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("EMBEDLLM_DATA_DIR"))
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache/embedllm")
    parser.add_argument("--output", type=Path, help="write the record to this .json file")
    parser.add_argument("--picture", type=Path, help="write the picture to this file")
    return parser.parse_args()


def read_sentences(data_dir: Path | None) -> list[str]:
    """Returns the distinct STS sentences in dictionary order."""
    tasks = load_tasks(PAPER_TASKS, data_dir=Path(data_dir) if data_dir else None)
    subsets = [subset for task in tasks for subset in task.subsets.values()]
    return sorted({s for subset in subsets for s in (*subset.sentence1, *subset.sentence2)})


def measure(axis: str, sentences: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Returns quantities, median seconds and exponents along one axis."""
    points = BUILDERS[axis](sentences, options)
    work = {f"{axis} {p.quantity:,.0f} encode": p.encode for p in points}
    work |= {f"{axis} {p.quantity:,.0f} train": p.train for p in points}
    medians = [timing.median for timing in take_turns(work, repeats=options.repeats).values()]
    quantity = [point.quantity for point in points]
    curve = {"encode": medians[: len(points)], "train": medians[len(points) :]}
    return {
        "quantity": quantity,
        **curve,
        "exponent": {what: fit_exponent(quantity, seconds) for what, seconds in curve.items()},
    }


def fit_exponent(quantity: list[float], seconds: list[float]) -> float:
    """Returns the slope of log time over log quantity, without points at zero."""
    kept = [(q, s) for q, s in zip(quantity, seconds, strict=True) if q > 0]
    logs = np.log(np.array(kept)).T
    return float(np.polyfit(logs[0], logs[1], deg=1)[0])


def build_encoder(options: argparse.Namespace, model: str, *overrides: str) -> SentenceEncoder:
    """Returns an encoder with a fresh adapter."""
    has_weights = model in ("smollm2-135m", "gemma3-270m")
    random = [] if has_weights else ["model.init=random", "model.tokenizer=bundled"]
    names = [f"model={model}", f"model.dtype={options.dtype}", "adapter=lora", "run_name=benchmark"]
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = to_typed(compose("train", overrides=[*names, *random, *overrides]))
    assert isinstance(config, TrainConfig)
    encoder = load_encoder(config.model, config.prompt, options.cache_dir, device=resolve_device())
    encoder.embedder.trunk = attach_adapter(encoder.embedder.trunk, config.adapter, seed=0)
    return encoder


def build_point(quantity: float, encoder: SentenceEncoder, texts: list[str]) -> Point:
    """Returns the point of some sentences; in training, thirds of them are triplets."""
    num_anchors = len(texts) // 3
    rows = encoder.token_ids(texts[: 3 * num_anchors])
    embedder = encoder.embedder
    device = next(embedder.parameters()).device
    budget = default_pack_tokens(device, training=True)
    loss = InfoNCE(0.05, 0.0)

    def train() -> None:
        embedder.train()
        vectors = embed_rows(embedder, rows, max_tokens=budget, recompute=True)
        owner = torch.arange(num_anchors, device=device)
        loss(*vectors.split(num_anchors), owner).loss.backward()
        embedder.zero_grad()
        embedder.eval()

    return Point(quantity, lambda: encoder.encode(texts), train)


def draw_neighbours(sentences: list[str], number: int, seed: int) -> list[str]:
    """Returns so many sentences; neighbours, which begin alike, are drawn together."""
    blocks = [sentences[i : i + 12] for i in range(0, len(sentences) - 12, 12)]
    chosen = np.random.default_rng(seed).choice(len(blocks), -(-number // 12), replace=False)
    return [sentence for i in chosen for sentence in blocks[i]][:number]


def along_sentences(sentences: list[str], options: argparse.Namespace) -> list[Point]:
    """More sentences."""
    encoder = build_encoder(options, options.model)
    numbers = NUM_SENTENCES[resolve_device().type]
    return [build_point(n, encoder, draw_neighbours(sentences, n, options.seed)) for n in numbers]


def along_length(sentences: list[str], options: argparse.Namespace) -> list[Point]:
    """Longer sentences, as many at each length."""
    encoder = build_encoder(options, options.model, "prompt.max_sentence_tokens=null")
    words = sorted({word for sentence in sentences for word in sentence.split()})
    random = np.random.default_rng(options.seed)
    points = []
    for num_words in NUM_WORDS:
        texts = [" ".join(random.choice(words, num_words)) for _ in range(24)]
        num_tokens = float(np.mean([len(ids) for ids in encoder.token_ids(texts)]))
        points.append(build_point(num_tokens, encoder, texts))
    return points


def along_demonstrations(sentences: list[str], options: argparse.Namespace) -> list[Point]:
    """More demonstrations in front of the same sentences."""
    texts = draw_neighbours(sentences, 96, options.seed)
    encoder = build_encoder(options, options.model)
    first, *rest = encoder.prompt.literals
    points = []
    for number in NUM_DEMONSTRATIONS:
        literals = (" ".join([*[DEMONSTRATION] * number, first]), *rest)
        other = encoder.with_prompt(replace(encoder.prompt, literals=literals))
        longer = len(other.token_ids(texts[:1])[0]) - len(encoder.token_ids(texts[:1])[0])
        points.append(build_point(longer, other, texts))
    return points


def along_size(sentences: list[str], options: argparse.Namespace) -> list[Point]:
    """Larger models on the same sentences."""
    texts = draw_neighbours(sentences, 24, options.seed)
    points = []
    for model in SIZES[resolve_device().type]:
        encoder = build_encoder(options, model)
        trunk: Any = encoder.embedder.trunk
        num_parameters = sum(p.numel() for p in trunk.parameters() if not p.requires_grad)
        points.append(build_point(num_parameters, encoder, texts))
    return points


BUILDERS: dict[str, Callable[[list[str], argparse.Namespace], list[Point]]] = {
    "sentences": along_sentences,
    "length": along_length,
    "demonstrations": along_demonstrations,
    "size": along_size,
}


def draw(curves: dict[str, Any], path: Path) -> None:
    """Writes one panel for each axis, both scales logarithmic."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(curves), figsize=(3.6 * len(curves), 3.4), squeeze=False, layout="constrained"
    )
    for panel, (axis, curve) in zip(panels[0], curves.items(), strict=True):
        for what, marker in (("encode", "o"), ("train", "s")):
            label = f"{what}: exponent {curve['exponent'][what]:.2f}"
            panel.plot(curve["quantity"], curve[what], marker=marker, label=label)
        # Demonstrations begin at none.
        panel.set_xscale("symlog" if min(curve["quantity"]) == 0 else "log")
        panel.set_yscale("log")
        panel.set_xlabel(AXES[axis])
        panel.grid(visible=True, which="both", alpha=0.25)
        panel.legend(frameon=False, fontsize="small")
    panels[0][0].set_ylabel("seconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a date the same figures give the same file.
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    sys.exit(main())
