"""What each part of the engine gives: the same work with one part at a time switched off.

    EMBEDLLM_DATA_DIR=/data python benchmarks/levers.py
    EMBEDLLM_DATA_DIR=/data python benchmarks/levers.py --demonstration --dtype bfloat16

Encodes STS sentences as an evaluator passes them, and runs training steps (forward and backward,
packs computed again) on sentences of the same source taken as triplets. All settings take turns in
one process, and their vectors are compared with those of the whole engine. A factor above 1 is what
the part saves; factors do not multiply up exactly, for the parts share work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode import draw_sentences
from scaling import build_encoder
from side_by_side import take_turns, to_table, write_record
from torch import nn

from embedllm.losses.info_nce import InfoNCE
from embedllm.models import encoder as encoder_module
from embedllm.models.dropout import FewBitsDropout
from embedllm.models.embed_rows import embed_rows
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.linear import OneDnnLinear
from embedllm.models.packing import default_pack_tokens


@contextmanager
def changed(owner: Any, **values: Any) -> Iterator[None]:
    """Sets attributes for the length of a block."""
    kept = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(owner, name, value)


@contextmanager
def usual_layers(encoder: SentenceEncoder, fast: type[nn.Module], usual: type[nn.Module]) -> Any:
    """Gives layers of one class their usual class."""
    layers = [layer for layer in encoder.embedder.modules() if type(layer) is fast]
    for layer in layers:
        layer.__class__ = usual
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = fast


@contextmanager
def rows_for_themselves(encoder: SentenceEncoder) -> Any:
    """Shares the common prefix alone."""
    kept = encoder.embedder.can_share_trie
    encoder.embedder.__dict__["can_share_trie"] = False
    try:
        yield
    finally:
        encoder.embedder.__dict__["can_share_trie"] = kept


ENCODE_SWITCHES: dict[str, Callable[[SentenceEncoder], Any]] = {
    "beginnings that some share (trie)": rows_for_themselves,
    "all shared beginnings (prefix and trie)": lambda e: changed(e, share_prefix=False),
    "last layer only where it is read": lambda e: changed(e.embedder, may_read_early=False),
    "linear layers through oneDNN": partial(usual_layers, fast=OneDnnLinear, usual=nn.Linear),
    "packs that fit the processor's cache": lambda e: changed(e, tokens_per_batch=8192),
    "windows in dictionary order": lambda e: changed(encoder_module, _WINDOW=64),
}
TRAIN_SWITCHES: dict[str, Callable[[SentenceEncoder], Any]] = {
    "beginnings that some share (trie)": rows_for_themselves,
    "last layer only where it is read": lambda e: changed(e.embedder, may_read_early=False),
    "linear layers through oneDNN": partial(usual_layers, fast=OneDnnLinear, usual=nn.Linear),
    "dropout from few random bits": partial(usual_layers, fast=FewBitsDropout, usual=nn.Dropout),
}


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    prompt = "icl-opt-2.7b" if options.demonstration else "prompteol"
    sentences = draw_sentences(options)
    encoder = build_encoder(options, options.model, f"prompt={prompt}")
    rows = encoder.token_ids(list(dict.fromkeys(sentences))[: 3 * options.triplets])
    parts = {
        "encode": (lambda: encoder.encode(sentences), ENCODE_SWITCHES, {}),
        "train": (
            lambda: train(encoder, rows),
            TRAIN_SWITCHES,
            {
                "all shared beginnings (prefix and trie)": lambda: train(
                    encoder, rows, share=False
                ),
                "states kept, not computed again": lambda: train(encoder, rows, recompute=False),
            },
        ),
    }
    record: dict[str, Any] = {"benchmark": "levers", "model": options.model, "dtype": options.dtype}
    for what, (run, switches, others) in parts.items():
        work = {"whole engine": run, **others}
        work |= {
            name: partial(run_without, run, switch, encoder) for name, switch in switches.items()
        }
        if what == "encode":
            expected = run()
            scale = np.abs(expected).max()
            record["difference"] = {
                name: float(np.abs(without() - expected).max() / scale)
                for name, without in work.items()
            }
        medians = {name: t.median for name, t in take_turns(work, repeats=options.repeats).items()}
        record[what] = medians
        table = [
            [name, f"{seconds:.2f}", f"{seconds / medians['whole engine']:.2f}"]
            for name, seconds in medians.items()
        ]
        sys.stdout.write(to_table([f"{what}, without", "median s", "factor"], table) + "\n")
    write_record(options.output, record)
    return 0


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m", help="a file of conf/model")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--demonstration", action="store_true", help="that of OPT-2.7B in front")
    parser.add_argument("--share", type=float, default=0.01, help="part of the distinct sentences")
    parser.add_argument("--triplets", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("EMBEDLLM_DATA_DIR"))
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache/embedllm")
    parser.add_argument("--output", type=Path, help="write the record to this .json file")
    return parser.parse_args(namespace=argparse.Namespace(distinct=False))


def run_without(
    run: Callable[[], Any], switch: Callable[..., Any], encoder: SentenceEncoder
) -> Any:
    """Runs with one part switched off."""
    with switch(encoder):
        return run()


def train(
    encoder: SentenceEncoder, rows: list[list[int]], *, share: bool = True, recompute: bool = True
) -> None:
    """One forward and backward pass over thirds of the rows as triplets."""
    embedder, num_anchors = encoder.embedder, len(rows) // 3
    device = next(embedder.parameters()).device
    embedder.train()
    vectors = embed_rows(
        embedder,
        rows[: 3 * num_anchors],
        max_tokens=default_pack_tokens(device, training=True),
        share_prefix=share,
        recompute=recompute,
    )
    owner = torch.arange(num_anchors, device=device)
    InfoNCE(0.05, 0.0)(*vectors.split(num_anchors), owner).loss.backward()
    embedder.zero_grad()
    embedder.eval()


if __name__ == "__main__":
    sys.exit(main())
