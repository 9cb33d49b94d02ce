"""Encoding side by side: this project, sentence-transformers, and the plain loop of the paper.

    EMBEDLLM_DATA_DIR=/data python benchmarks/encode.py
    EMBEDLLM_DATA_DIR=/data python benchmarks/encode.py --demonstration --distinct
    EMBEDLLM_DATA_DIR=/data python benchmarks/encode.py --model opt-125m --output record.json

The sentences are those of the seven STS tasks: a drawn part of the distinct ones, with all places
where an evaluator passes them (`--distinct`: each once). Neighbours in dictionary order are drawn
together, so that a part shares as many beginnings as the whole does. All three read the same
finished prompts as plain text and take the state at the last token. They take turns in one process;
medians are compared, and the run fails with status 1 if any vector is more than 1e-4 away from this
project's (relative to the largest entry; 0.1 for 16-bit weights, which round).

Two more take turns as a measure of what is left to gain: forward passes of full rows of equal
length, at their best batch, give the time of a token without any overhead; and with
`--demonstration` this project runs without it too.

The plain loop is what the paper describes: the language model with its head, all hidden states,
left padding, 16 sentences at a time in the order given. sentence-transformers gets 32 at a time,
its default, from a copy of the model without a chat template, which it would apply to plain text.
Models that are not on this disk (`--model opt-1.3b`) have random weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from side_by_side import Timing, take_turns, to_table, write_record

from embedllm.config import EvaluateConfig
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.evaluation.tasks import PAPER_TASKS, load_tasks
from embedllm.models.backbone import load_language_model, resolve_device
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.models.trie import count_nodes
from embedllm.prompts.template import build_prompt

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.1}
PLAIN_BATCH, LIBRARY_BATCH = 16, 32
# Neighbours in dictionary order that are drawn together.
BLOCK = 60
DENSE_LENGTH = 24
DENSE_BATCHES = {"cpu": (16, 32, 64, 128), "cuda": (256, 1024, 4096)}

Encode = Callable[[], np.ndarray]


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    device = resolve_device()
    config = compose_config(options)
    sentences = draw_sentences(options)
    with tempfile.TemporaryDirectory() as scratch:
        encoder = load_encoder(config.model, config.prompt, options.cache_dir, device=device)
        folder = save_copy(encoder, config, options.cache_dir, Path(scratch))
        texts = [encoder.prompt.fill(encoder.prompt.clean(text)) for text in sentences]
        contestants: dict[str, Encode] = {
            "embedllm": lambda: encoder.encode(sentences),
            "sentence-transformers": build_library(folder, texts, encoder.dtype, device),
            "plain loop": build_plain_loop(folder, texts, encoder, device),
        }
        differences = compare(contestants)
        dense = build_dense(encoder, device)
        if options.demonstration:
            plain = encoder.with_prompt(build_prompt(compose_config(options, "prompteol").prompt))
            contestants["embedllm, no demonstration"] = lambda: plain.encode(sentences)
        timings = take_turns({**contestants, **dense}, repeats=options.repeats)
    bound = describe_bound(encoder, sentences, timings, dense)
    timings = {name: timings[name] for name in contestants}
    ours = timings["embedllm"].median
    ratios = {name: timing.median / ours for name, timing in timings.items()}
    rows = [
        [
            name,
            f"{len(sentences) / timing.median:.1f}",
            f"{timing.median:.2f}",
            f"{timing.spread:.2f}",
            f"{ratios[name]:.2f}",
            f"{differences.get(name, 0.0):.1e}",
        ]
        for name, timing in timings.items()
    ]
    header = ["", "sentences/s", "median s", "slowest/fastest", "time / embedllm", "difference"]
    sys.stdout.write(to_table(header, rows))
    sys.stdout.write(
        f"{bound['trie_tokens']} distinct beginnings, {bound['prompt_tokens']} tokens of distinct "
        f"prompts; {1e6 * bound['seconds_per_trie_token']:.1f} us for each beginning, "
        f"{bound['ratio_to_dense']:.2f} times a token of full rows ({bound['dense']})\n"
    )
    is_equal = max(differences.values()) <= TOLERANCE[encoder.dtype]
    record = {
        "benchmark": "encode",
        "model": options.model,
        "dtype": encoder.dtype,
        "demonstration": options.demonstration,
        "num_sentences": len(sentences),
        "num_distinct": len(set(sentences)),
        "bound": bound,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "median_seconds": {name: timing.median for name, timing in timings.items()},
        "ratio": ratios,
        "difference": differences,
        "is_equal": is_equal,
    }
    write_record(options.output, record)
    if not is_equal:
        sys.stderr.write(f"the vectors differ: {differences}\n")
    return 0 if is_equal else 1


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m", help="a file of conf/model")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, for models without weights")
    parser.add_argument("--dtype", default="float32", choices=TOLERANCE)
    parser.add_argument("--demonstration", action="store_true", help="that of OPT-2.7B in front")
    parser.add_argument("--share", type=float, default=0.02, help="part of the distinct sentences")
    parser.add_argument("--distinct", action="store_true", help="pass every sentence once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("EMBEDLLM_DATA_DIR"))
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache/embedllm")
    parser.add_argument("--output", type=Path, help="write the record to this .json file")
    return parser.parse_args()


def compose_config(options: argparse.Namespace, prompt: str | None = None) -> EvaluateConfig:
    """Returns the typed config of the model and the prompt."""
    prompt = prompt or ("icl-opt-2.7b" if options.demonstration else "prompteol")
    overrides = [f"model={options.model}", f"prompt={prompt}", f"model.dtype={options.dtype}"]
    if options.model not in ("smollm2-135m", "gemma3-270m"):
        overrides += ["model.init=random", f"model.tokenizer={options.tokenizer or 'bundled'}"]
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = to_typed(compose("evaluate", overrides=[*overrides, "run_name=benchmark"]))
    assert isinstance(config, EvaluateConfig)
    return config


def draw_sentences(options: argparse.Namespace) -> list[str]:
    """Returns a part of the STS sentences in the order in which an evaluator passes them."""
    data_dir = Path(options.data_dir) if options.data_dir else None
    passed = [
        sentence
        for task in load_tasks(PAPER_TASKS, data_dir=data_dir)
        for column in ("sentence1", "sentence2")
        for subset in task.subsets.values()
        for sentence in getattr(subset, column)
    ]
    distinct = list(dict.fromkeys(passed))
    blocks = [sorted(distinct)[i : i + BLOCK] for i in range(0, len(distinct), BLOCK)]
    random = np.random.default_rng(options.seed)
    number = max(1, round(options.share * len(blocks)))
    chosen_blocks = random.choice(len(blocks), number, replace=False)
    drawn = {sentence for i in chosen_blocks for sentence in blocks[i]}
    chosen = [sentence for sentence in passed if sentence in drawn]
    return list(dict.fromkeys(chosen)) if options.distinct else chosen


def save_copy(
    encoder: SentenceEncoder, config: EvaluateConfig, cache_dir: Path, scratch: Path
) -> Path:
    """Saves the whole language model and its tokenizer, without a chat template."""
    folder = scratch / "model"
    model = load_language_model(config.model, cache_dir, device=torch.device("cpu"))
    model.base_model.load_state_dict(encoder.embedder.trunk.state_dict())
    model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
    return folder


def build_library(folder: Path, texts: list[str], dtype: str, device: torch.device) -> Encode:
    """Returns the call of sentence-transformers' `encode`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(str(folder), model_kwargs={"dtype": getattr(torch, dtype)})
    width = transformer.get_embedding_dimension()
    model = SentenceTransformer(
        modules=[transformer, Pooling(width, pooling_mode="lasttoken")], device=str(device)
    )

    def encode() -> np.ndarray:
        vectors = model.encode(texts, batch_size=LIBRARY_BATCH, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return encode


def build_plain_loop(
    folder: Path, texts: list[str], encoder: SentenceEncoder, device: torch.device
) -> Encode:
    """Returns the loop of the paper, as its description has it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, encoder.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @torch.no_grad()
    def encode() -> np.ndarray:
        parts = []
        for start in range(0, len(texts), PLAIN_BATCH):
            batch = tokenizer(texts[start : start + PLAIN_BATCH], padding=True, return_tensors="pt")
            output = model(**batch.to(device), output_hidden_states=True)
            parts.append(output.hidden_states[-1][:, -1].float().cpu().numpy())
        return np.concatenate(parts)

    return encode


def build_dense(encoder: SentenceEncoder, device: torch.device) -> dict[str, Encode]:
    """Returns forward passes of full rows, one for each batch size."""
    embedder, num_tokens = encoder.embedder, encoder.tokenizer.vocab_size
    generator = torch.Generator().manual_seed(0)

    def build(num_rows: int) -> Encode:
        ids = torch.randint(5, num_tokens, (num_rows, DENSE_LENGTH), generator=generator)
        inputs = (ids.to(device), torch.ones_like(ids).to(device))

        @torch.inference_mode()
        def run() -> np.ndarray:
            return embedder(*inputs).cpu().numpy()  # type: ignore[no-any-return]

        return run

    return {f"{n} rows of {DENSE_LENGTH}": build(n) for n in DENSE_BATCHES[device.type]}


def describe_bound(
    encoder: SentenceEncoder,
    sentences: list[str],
    timings: dict[str, Timing],
    dense: dict[str, Encode],
) -> dict[str, Any]:
    """Returns how near the time comes to that of the least number of tokens."""
    rows = encoder.token_ids(sorted(set(sentences)))
    num_nodes = count_nodes(rows)
    per_token = {
        name: timings[name].median / (int(name.partition(" ")[0]) * DENSE_LENGTH) for name in dense
    }
    best = min(per_token, key=per_token.__getitem__)
    per_node = timings["embedllm"].median / num_nodes
    return {
        "trie_tokens": num_nodes,
        "prompt_tokens": sum(map(len, rows)),
        "seconds_per_trie_token": per_node,
        "seconds_per_dense_token": per_token,
        "dense": best,
        "ratio_to_dense": per_node / per_token[best],
    }


def compare(contestants: dict[str, Encode]) -> dict[str, float]:
    """Returns the largest difference of each contestant from the first, relative to its largest."""
    first, *others = contestants
    expected = contestants[first]()
    scale = np.abs(expected).max()
    return {name: float(np.abs(contestants[name]() - expected).max() / scale) for name in others}


if __name__ == "__main__":
    sys.exit(main())
