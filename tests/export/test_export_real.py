"""SmolLM2-135M with an adapter that is trained here, exported in both ways and compared.

    python -m pytest tests/export/test_export_real.py -m slow --export-record FILE

keeps the differences; benchmarks/results/export/smollm2-135m.json is such a record.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import TEXTS, run_snippet, snippets_of
from tiny_runs import run_script, script_environment

from embedllm import SentenceEncoder
from embedllm.data.sample import generate_triplets
from embedllm.export.sentence_transformers_folder import texts_beyond
from embedllm.export.write import relative_distance
from embedllm.files import write_json
from embedllm.versions import git_revision, hardware, library_versions

TOLERANCE = 1e-5
MAX_SECONDS = 7200
NUM_SENTENCES = 190


def train_and_export(folder: Path) -> Path:
    """Makes `merged` and `sentence-transformers` in a folder, and returns their adapter."""
    train = [
        "train.py",
        "run_name=short",
        f"paths.output_dir={folder}",
        "data.global_batch_size=32",
        "trainer.max_steps=8",
        "evaluation=none",
    ]
    commands = [train]
    adapter = folder / "short" / "adapter"
    for kind in ("merged", "sentence-transformers"):
        words = [f"adapter={adapter}", f"output={folder / kind}", f"format={kind}"]
        commands.append(["-m", "embedllm", "export", *words])
    for command in commands:
        found = run_script(*command, environment=script_environment(), timeout=3600)
        assert found.returncode == 0, found.stderr
    return adapter


def differences(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    return {
        "relative": relative_distance(found, expected),
        "absolute": float(np.abs(found - expected).max()),
    }


@pytest.mark.slow
@pytest.mark.timeout(MAX_SECONDS)
def test_smollm2_trained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from sentence_transformers import SentenceTransformer

    adapter = train_and_export(tmp_path)
    monkeypatch.chdir(tmp_path)
    anchors = [triplet.anchor for triplet in generate_triplets(NUM_SENTENCES, seed=0)]
    texts = list(dict.fromkeys([*TEXTS, *anchors]))
    assert len(texts) > 100
    encoder = SentenceEncoder.load(adapter, device="cpu")
    ours = encoder.encode(texts)
    found: dict[str, dict[str, Any]] = {"merged": {}, "sentence-transformers": {}}
    for kind, by in found.items():
        again = SentenceEncoder.load(tmp_path / kind, device="cpu").encode(texts)
        by["embedllm"] = differences(again, ours)
        [*_, snippet] = snippets_of((tmp_path / kind / "README.md").read_text(encoding="utf-8"))
        _, _, names = run_snippet(snippet)
        by["transformers"] = differences(torch.stack([*map(names["embed"], texts)]).numpy(), ours)
    theirs = SentenceTransformer(str(tmp_path / "sentence-transformers"), device="cpu")
    theirs_of = theirs.encode(texts, show_progress_bar=False)
    found["sentence-transformers"]["sentence-transformers"] = differences(theirs_of, ours)
    long = texts_beyond(encoder.max_length)
    lengths = []
    for text, expected in zip(long, encoder.token_ids(long), strict=True):
        assert theirs.preprocess([text])["input_ids"][0].tolist() == expected
        lengths.append(len(expected))
    assert lengths == [8192, 8192]
    untrained = SentenceEncoder.load("smollm2-135m", device="cpu").encode(texts)
    moved = differences(untrained, ours)
    if path := request.config.getoption("--export-record", default=None):
        write_json(
            Path(path),
            {
                "check": "export",
                "model": "smollm2-135m",
                "dtype": encoder.dtype,
                "num_texts": len(texts),
                "largest_number": float(np.abs(ours).max()),
                "difference": found,
                "moved_by_training": moved,
                "equal_tokens_of_texts_cut_to": lengths,
                "versions": library_versions(),
                "hardware": hardware(),
                "git_revision": git_revision(),
                "command": ["python", "-m", "pytest", *sys.argv[1:]],
            },
        )
    for by in found.values():
        for difference in by.values():
            assert difference["relative"] < TOLERANCE
    assert moved["relative"] > 0.05
    assert "model.embed_tokens.weight" in load_file(tmp_path / "merged" / "model.safetensors")
