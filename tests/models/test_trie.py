"""Tries of rows: complete, minimal, and the vectors are those of rows alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ModelFactory

from embedllm.config import ModelConfig
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.prefix import common_prefix_length, compute_prefix
from embedllm.models.trie import TriePack, count_nodes, pack_tries
from embedllm.prompts.bundled_tokenizer import VOCAB_SIZE

Rows = list[list[int]]
rows_of_few_tokens = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=1, max_size=25
)


def paths_of(pack: TriePack) -> dict[int, list[int]]:
    """Returns by row the tokens that its last node sees, in the order of their depth."""
    found = {}
    for row, slot in zip(pack.rows.tolist(), pack.slots.tolist(), strict=True):
        one, place = divmod(slot, pack.ends.shape[1])
        node = int(pack.ends[one, place])
        seen = pack.visible[one, node].nonzero().flatten().tolist()
        depths = pack.depths[one][seen].tolist()
        assert sorted(depths) == list(range(len(seen))), "one node of each depth"
        tokens = pack.input_ids[one][seen].tolist()
        found[row] = [token for _, token in sorted(zip(depths, tokens, strict=True))]
    return found


@given(rows_of_few_tokens, st.integers(1, 30), st.integers(1, 80))
def test_every_row_is_a_path(rows: Rows, bin_nodes: int, max_tokens: int) -> None:
    packs = pack_tries(rows, max_tokens=max_tokens, bin_nodes=bin_nodes)
    found = [row for pack in packs for row in paths_of(pack)]
    assert sorted(found) == list(range(len(rows)))
    for pack in packs:
        assert all(rows[row] == tokens for row, tokens in paths_of(pack).items())
        num_bins, width = pack.input_ids.shape
        assert num_bins == 1 or num_bins * width <= max_tokens
        assert width <= max(bin_nodes, *map(len, rows))


@given(rows_of_few_tokens)
def test_one_bin_has_every_beginning_once(rows: Rows) -> None:
    beginnings = {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}
    assert count_nodes(rows) == len(beginnings)
    [pack] = pack_tries(rows, max_tokens=10**6, bin_nodes=10**6)
    assert pack.input_ids.shape == (1, len(beginnings))


@given(rows_of_few_tokens, st.integers(1, 30))
def test_a_node_sees_nothing_behind_it(rows: Rows, bin_nodes: int) -> None:
    for pack in pack_tries(rows, max_tokens=60, bin_nodes=bin_nodes):
        assert not pack.visible.triu(1).any()
        assert pack.visible.diagonal(dim1=1, dim2=2).all()


def test_no_rows_no_packs() -> None:
    assert pack_tries([], max_tokens=10, bin_nodes=5) == []


SENTENCES = [
    "A man is riding a horse",
    "A man is riding a bicycle in the park",
    "A man is riding",
    "A man",
    "",
    "A woman is riding a horse",
    "Rain falls",
    "Two children are playing football on the beach while their parents watch them",
]
TOLERANCE = 2e-5  # float32, relative to the largest entry


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_vectors_equal_those_of_rows_alone(
    tiny_family: ModelFactory, build_encoder: Any, layer: int, share_prefix: bool
) -> None:
    encoder = build_encoder(tiny_family(layer=layer))
    embedder, rows = encoder.embedder, encoder.token_ids(SENTENCES)
    assert embedder.can_share_trie
    num_shared = common_prefix_length(rows) if share_prefix else 0
    window = embedder.trie_window
    if window is not None:
        rows = [row[: window - 1] for row in rows]
        num_shared = min(num_shared, window - 2)
    tails = [row[num_shared:] for row in rows]
    assert count_nodes(tails) < 0.9 * sum(map(len, tails)), "nothing to share"
    with torch.inference_mode():
        prefix = compute_prefix(embedder.trunk, rows[0][:num_shared]) if num_shared else None
        alone = torch.cat(
            [
                embedder(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))
                for row in rows
            ]
        )
        for bin_nodes in (12, 40, 1000):
            for max_tokens in (1, 80):
                for one in pack_tries(tails, max_tokens=max_tokens, bin_nodes=bin_nodes):
                    found = embedder.forward_trie(one, prefix)
                    error = (found - alone[one.rows]).abs().max() / alone.abs().max()
                    assert error <= TOLERANCE


def test_a_wrong_mask_would_show(tiny_family: ModelFactory, build_encoder: Any) -> None:
    encoder = build_encoder(tiny_family())
    rows = [row[:7] for row in encoder.token_ids(SENTENCES)]
    [one] = pack_tries(rows, max_tokens=10**4, bin_nodes=10**4)
    causal = replace(one, visible=torch.ones_like(one.visible).tril())
    shifted = replace(one, depths=torch.arange(one.depths.shape[1])[None])
    with torch.inference_mode():
        right = encoder.embedder.forward_trie(one)
        for wrong in (causal, shifted):
            moved = (encoder.embedder.forward_trie(wrong) - right).abs().max()
            assert moved > 100 * TOLERANCE * right.abs().max()


def watch(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that grows by the nodes of each trie that is computed."""
    assert encoder.embedder.can_share_trie or encoder.embedder.pooling != "last"
    sizes: list[int] = []
    forward = encoder.embedder.forward_trie

    def note(one: TriePack, prefix: Any = None, **options: Any) -> torch.Tensor:
        sizes.append(one.input_ids.numel())
        return forward(one, prefix, **options)

    monkeypatch.setattr(encoder.embedder, "forward_trie", note)
    return sizes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_uses_it_where_windows_allow(
    tiny_family: ModelFactory,
    build_encoder: Any,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = build_encoder(tiny_family(dtype=dtype), tokens_per_batch=200)
    sizes = watch(encoder, monkeypatch)
    with caplog.at_level("INFO", logger="embedllm"):
        shared = encoder.encode(SENTENCES)
    has_window = encoder.embedder.trie_window is not None
    assert bool(sizes) is not has_window
    assert ("attention window" in caplog.text) is has_window
    encoder.share_trie = False
    alone = encoder.encode(SENTENCES)
    tolerance = TOLERANCE if dtype == "float32" else 0.05
    assert np.abs(shared - alone).max() <= tolerance * np.abs(alone).max()
    sizes.clear()
    encoder.encode(SENTENCES)
    assert not sizes


def test_not_where_it_saves_nothing(
    tiny_llama: ModelFactory, build_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pairs of equal length, so that rows need no padding.
    encoder = build_encoder(tiny_llama(), tokens_per_batch=18)
    sizes = watch(encoder, monkeypatch)
    encoder.encode(["Rain", "Snow", "Fire", "Wind"])
    assert not sizes


def test_not_for_pooling_over_all_tokens(
    tiny_llama: ModelFactory, build_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build_encoder(tiny_llama(pooling="mean"))
    sizes = watch(encoder, monkeypatch)
    encoder.encode(SENTENCES)
    assert not sizes


def test_a_model_that_counts_places_itself_is_found_out(
    build_encoder: Any,
) -> None:
    """BLOOM's attention has slopes by distance and takes no positions."""
    bloom = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4}
    model = ModelConfig(
        name="tiny-bloom",
        init="random",
        tokenizer="bundled",
        dtype="float32",
        architecture={**bloom, "vocab_size": VOCAB_SIZE},
    )
    encoder = build_encoder(model)
    assert not encoder.embedder.can_share_trie
    assert encoder.encode(SENTENCES).shape == (len(SENTENCES), 32)


def test_out_of_memory_goes_on_with_fewer_bins_and_then_row_by_row(
    tiny_llama: ModelFactory,
    build_encoder: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = build_encoder(tiny_llama()).encode(SENTENCES)
    encoder = build_encoder(tiny_llama(), tokens_per_batch=400)
    assert encoder.embedder.can_share_trie

    def run(*arguments: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(encoder.embedder, "forward_trie", run)
    vectors = encoder.encode(SENTENCES)
    assert np.abs(vectors - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert "going on row by row" in caplog.text
