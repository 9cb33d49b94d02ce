"""Vectors on disk: found again, and never those of another prompt, type, adapter or model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build_tiny_config

from embedllm.config import AdapterConfig
from embedllm.errors import CheckpointError
from embedllm.models import vector_cache
from embedllm.models.adapters import attach_adapter
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.prefix import Prefix
from embedllm.models.trie import TriePack
from embedllm.models.vector_cache import VectorCache, checksum_weights, fingerprint_embedder

if TYPE_CHECKING:
    from encoder_builder import EncoderBuilder

PROMPT_TEMPLATE = 'This sentence : "{sentence}" means in one word:"'

SENTENCES = ["A man is riding a horse", "Rain falls", "", "Two dogs", "A man is riding"]


class Counting:
    """Counts the rows that go through the model."""

    def __init__(self, encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        forward = encoder.embedder.forward

        def count(ids: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            self.rows += len(ids)
            return forward(ids, *rest, **options)

        # Found out by trying, which is no row of the caller's.
        assert encoder.embedder.can_share_trie
        forward_trie = encoder.embedder.forward_trie

        def count_trie(one: TriePack, prefix: Prefix | None, **options: Any) -> torch.Tensor:
            self.rows += len(one.rows)
            return forward_trie(one, prefix, **options)

        monkeypatch.setattr(encoder.embedder, "forward", count)
        monkeypatch.setattr(encoder.embedder, "forward_trie", count_trie)


def test_a_vector_is_computed_once(
    build_encoder: EncoderBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_encoder(build_tiny_config("opt"))
    plain = first.encode(SENTENCES)
    first.keep_vectors(tmp_path)
    count = Counting(first, monkeypatch)
    assert np.allclose(first.encode(SENTENCES[:3]), plain[:3], atol=1e-5)
    assert count.rows == 3
    first.encode(SENTENCES)
    assert count.rows == len(SENTENCES)

    second = build_encoder(build_tiny_config("opt"))
    second.keep_vectors(tmp_path)
    count = Counting(second, monkeypatch)
    found = second.encode(SENTENCES[::-1])
    assert count.rows == 0
    assert np.allclose(found, plain[::-1], atol=1e-5)
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


OTHERS: dict[str, dict[str, Any]] = {
    "prompt": {"prompt_template": "{sentence} means"},
    "demonstration end": {"prompt_template": PROMPT_TEMPLATE + " "},
    "clean-up": {"clean_up": "none"},
    "budget": {"evaluation_max_sentence_tokens": 2},
}
OTHER_MODELS: dict[str, dict[str, Any]] = {
    "dtype": {"dtype": "bfloat16"},
    "seed": {"init_seed": 1},
    "layer": {"layer": 1},
    "pooling": {"pooling": "mean"},
    "length": {"normalize": True},
    "architecture": {"architecture": {"activation_function": "gelu"}},
}


@pytest.mark.parametrize("what", [*OTHERS, *OTHER_MODELS])
def test_nothing_is_found_for_another(
    what: str, build_encoder: EncoderBuilder, tmp_path: Path
) -> None:
    first = build_encoder(build_tiny_config("opt"))
    first.keep_vectors(tmp_path)
    first.encode(SENTENCES)
    other = build_encoder(
        build_tiny_config("opt", **OTHER_MODELS.get(what, {})), **OTHERS.get(what, {})
    )
    plain = other.encode(SENTENCES)
    other.keep_vectors(tmp_path)
    assert np.allclose(other.encode(SENTENCES), plain, atol=1e-5)
    assert not np.allclose(plain, first.encode(SENTENCES), atol=1e-5) or what == "demonstration end"


@pytest.mark.parametrize("change", ["attach", "weights", "scaling"])
def test_nothing_is_found_for_another_adapter(
    change: str, build_encoder: EncoderBuilder, tmp_path: Path
) -> None:
    def adapted(*, alpha: int) -> SentenceEncoder:
        encoder = build_encoder(build_tiny_config("llama"))
        options = {"r": 4, "lora_alpha": alpha, "target_modules": "all-linear"}
        config = AdapterConfig(method="lora", options=options)
        trunk = attach_adapter(encoder.embedder.trunk, config, seed=0)
        for name, parameter in trunk.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.1)
        encoder.embedder.trunk = trunk
        return encoder

    base = build_encoder(build_tiny_config("llama"))
    first = base if change == "attach" else adapted(alpha=8)
    other = adapted(alpha=16 if change == "scaling" else 8)
    if change == "weights":
        with torch.no_grad():
            next(p for p in other.embedder.parameters() if p.requires_grad)[0, 0] += 1e-3
    assert fingerprint_embedder(first.embedder) != fingerprint_embedder(other.embedder)
    assert fingerprint_embedder(other.embedder) == fingerprint_embedder(other.embedder)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_checksum_sees_every_change_of_a_weight(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 40))
    values = data.draw(st.lists(st.floats(width=32, allow_nan=False), min_size=size, max_size=size))
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.tensor(values))
    before = checksum_weights(module)
    assert checksum_weights(module) == before
    i, j = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    changed = list(values)
    if i == j:
        changed[i] = 1.0 if values[i] != 1.0 else 2.0
    else:
        changed[i], changed[j] = values[j], values[i]
    module.weight = torch.nn.Parameter(torch.tensor(changed))
    is_same = torch.tensor(values).view(torch.int32).equal(torch.tensor(changed).view(torch.int32))
    assert (checksum_weights(module) == before) == is_same


def test_checksum_does_not_depend_on_threads_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(50, 60)
    before = checksum_weights(module)
    monkeypatch.setattr(vector_cache, "_CHUNK", 7)
    torch.set_num_threads(2)
    try:
        assert checksum_weights(module) == before
    finally:
        torch.set_num_threads(1)


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(CheckpointError, match=r"x\.sqlite.*evaluation\.cache_vectors=false"):
        VectorCache(path)


def test_a_full_disk_costs_no_evaluation(
    tmp_path: Path,
    build_encoder: EncoderBuilder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = build_encoder(build_tiny_config("opt"))
    plain = encoder.encode(SENTENCES)
    encoder.keep_vectors(tmp_path)
    assert encoder.vector_cache is not None
    connect = encoder.vector_cache._connect
    with connect() as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON vectors "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    assert np.allclose(encoder.encode(SENTENCES), plain, atol=1e-5)
    assert np.allclose(encoder.encode(["another"]), encoder.encode(["another"]))
    assert caplog.text.count("disk is full") == 1
    assert len(encoder.vector_cache) == 0


def test_killed_evaluation_keeps_what_it_had(
    tmp_path: Path, build_encoder: EncoderBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
import os, sys, torch
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from tiny_models import build_tiny_config
from embedllm.config import PromptConfig
from embedllm.models import vector_cache
from embedllm.models.loading import load_encoder
torch.set_num_threads(1)
vector_cache.WRITE_EVERY_SECONDS = 0.0
encoder = load_encoder(build_tiny_config("opt"), PromptConfig(template=sys.argv[3]),
                       Path("."), device=torch.device("cpu"), tokens_per_batch=40)
encoder.keep_vectors(Path(sys.argv[1]))
assert encoder.embedder.can_read_early
forward, calls = encoder.embedder.forward, [0]
def dying(*arguments, **options):
    calls[0] += 1
    if calls[0] == 4:  # two packs are kept, one is on its way
        os.kill(os.getpid(), 9)
    return forward(*arguments, **options)
encoder.embedder.forward = dying
encoder.encode([f"Sentence number {i} of many" for i in range(12)])
"""
    tests = str(Path(__file__).resolve().parent.parent)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), tests, PROMPT_TEMPLATE],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    encoder = build_encoder(build_tiny_config("opt"), tokens_per_batch=40)
    sentences = [f"Sentence number {i} of many" for i in range(12)]
    plain = encoder.encode(sentences)
    encoder.keep_vectors(tmp_path)
    assert encoder.vector_cache is not None
    num_kept = len(encoder.vector_cache)
    assert 0 < num_kept < 12
    count = Counting(encoder, monkeypatch)
    assert np.allclose(encoder.encode(sentences), plain, atol=1e-5)
    assert count.rows == 12 - num_kept
    assert len(encoder.vector_cache) == 12


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path; "
        "from embedllm.models.vector_cache import VectorCache; "
        "cache = VectorCache(Path(sys.argv[1])); n = int(sys.argv[2]); "
        "[cache.write([[n, i]], np.full((1, 2), n + i)) for i in range(40)]"
    )
    path = tmp_path / "v.sqlite"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(path), str(n)]) for n in (1000, 2000)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    cache = VectorCache(path)
    assert len(cache) == 80
    found = cache.read([[n, i] for n in (1000, 2000) for i in range(40)])
    assert found[41].tolist() == [2001.0, 2001.0]
