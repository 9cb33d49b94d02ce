"""`python -m embedllm encode`: whatever the format and the type, the vectors of the encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encode_files import SUFFIXES, close, encode, write_input
from encode_runs import (
    COMPANIONS_TOLERANCE,
    CPU,
    FLOAT32_TOLERANCE,
    NUM_SHARDS,
    SHARD_ROWS,
    TEXTS,
    compose_encode,
    stack,
    tiny_encoder,
)
from tiny_models import build_tiny_config
from tiny_runs import read_json

from embedllm.config import AdapterConfig, PromptConfig
from embedllm.encoding import command
from embedllm.invocation import Invocation
from embedllm.models.adapter_folder import save_adapter
from embedllm.models.adapters import attach_adapter
from embedllm.models.loading import load_encoder

pytestmark = pytest.mark.usefixtures("entry_process")

FLOAT16_TOLERANCE = 2**-10


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_vectors_of_the_encoder(suffix: str, tmp_path: Path) -> None:
    path = write_input(tmp_path / f"x.{suffix}", TEXTS, [f"id {i}" for i in range(len(TEXTS))])
    named = () if suffix == "txt" else ("id_column=id",)
    ids, vectors = stack(encode(path, tmp_path / "out", "shard_rows=7", *named))
    encoder = tiny_encoder()
    shards = [encoder.encode(TEXTS[start : start + 7]) for start in (0, 7, 14)]
    assert ids == (list(range(len(TEXTS))) if suffix == "txt" else [f"id {i}" for i in range(20)])
    assert vectors.dtype == np.float32
    assert close(vectors, np.concatenate(shards), FLOAT32_TOLERANCE)
    # Other companions in the batch are other roundings.
    assert close(vectors, encoder.encode(TEXTS), COMPANIONS_TOLERANCE)
    # Other sentences have other vectors, the same sentence has the same.
    assert not close(vectors[:1], vectors[2:3], 0.01)
    assert np.array_equal(vectors[0], vectors[5])


@pytest.mark.parametrize("output_format", ["npy", "parquet"])
def test_float16_has_its_own_precision(output_format: str, tmp_path: Path) -> None:
    path = write_input(tmp_path / "x.jsonl", TEXTS)
    folder = encode(path, tmp_path / "out", f"format={output_format}", "dtype=float16")
    ids, vectors = stack(folder)
    assert (ids, vectors.dtype) == (list(range(len(TEXTS))), np.float16)
    assert close(vectors.astype(np.float32), tiny_encoder().encode(TEXTS), FLOAT16_TOLERANCE)


def test_a_method_of_several_templates_is_encoded_too(tmp_path: Path) -> None:
    path = write_input(tmp_path / "x.txt", TEXTS)
    _, vectors = stack(encode(path, tmp_path / "out", "method=metaeol"))
    encoder = tiny_encoder("method=metaeol")
    assert encoder.more_prompts
    assert close(vectors, encoder.encode(TEXTS), FLOAT32_TOLERANCE)


def test_an_adapter_brings_its_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_tiny_config("opt")
    prompt = PromptConfig(template='"{sentence}" is:"')
    encoder = load_encoder(model, prompt, tmp_path / "cache", device=CPU)
    plain = encoder.encode(TEXTS)
    adapter = AdapterConfig(method="lora", options={"r": 2, "target_modules": "all-linear"})
    encoder.embedder.trunk = attach_adapter(encoder.embedder.trunk, adapter, seed=0)
    with torch.no_grad():
        for parameter in encoder.embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    encoder.embedder.eval()
    folder = tmp_path / "adapter"
    save_adapter(folder, encoder, model=model, prompt=prompt, adapter=adapter, training={})
    path = write_input(tmp_path / "x.txt", TEXTS)
    call = ["encode", f"input={path}", f"output={tmp_path / 'out'}", f"adapter_path={folder}"]
    command.run_encode(compose_encode(*call[1:]), Invocation(call[1:], tmp_path))
    _, vectors = stack(tmp_path / "out")
    assert close(vectors, encoder.encode(TEXTS), 1e-5)
    assert not close(vectors, plain, 0.01)
    settings = read_json(tmp_path / "out" / "manifest.json")["settings"]
    assert settings["prompt"]["template"] == prompt.template
    assert settings["adapter_sha256"]
    for override in ("prompt=plain", "prompt.clean_up=none", "method=echo"):
        with pytest.raises(ValueError, match=f"so {override} has no place"):
            command.run_encode(
                compose_encode(*call[1:], override),
                Invocation([*call[1:], override], tmp_path),
            )
    assert capsys.readouterr().out.count("20 vectors of 32 float32 numbers in 1 shards") == 1


def test_the_manifest_says_what_decides_the_vectors(finished: Path, source: Path) -> None:
    manifest = read_json(finished / "manifest.json")
    num_rows = SHARD_ROWS * NUM_SHARDS - 7
    assert (manifest["num_rows"], manifest["num_shards"]) == (num_rows, NUM_SHARDS)
    assert (manifest["embedding_dim"], manifest["num_bad_rows"]) == (32, 0)
    assert len(manifest["weights"]) == 64
    settings = manifest["settings"]
    assert settings["input"]["files"][str(source)]["bytes"] == source.stat().st_size
    assert settings["model"]["architecture"]["init_std"] == 0.2
    assert settings["model"]["dtype"] == "float32"
    assert {"torch", "transformers", "embedllm"} <= settings["versions"].keys()
