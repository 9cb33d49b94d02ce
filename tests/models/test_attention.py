"""Attention of short rows against a loop in float64, and that it is really in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ModelFactory
from torch import Tensor

from embedllm.models import attention
from embedllm.models.attention import attend_short_rows
from embedllm.models.embed_rows import embed_rows

SENTENCES = ["A man is riding a horse", "Rain falls", "", "What is the best way to learn to swim?"]


def attend_by_loop(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """[A, L, E], [K, S, E], [K, S, E] and [L, S] to [L, A, E], in float64."""
    num_groups = len(query) // len(key)
    output = torch.zeros(query.shape[1], len(query), value.shape[-1], dtype=torch.float64)
    for head in range(len(query)):
        keys, values = key[head // num_groups].double(), value[head // num_groups].double()
        for position in range(query.shape[1]):
            scores = keys[visible[position]] @ query[head, position].double()
            weights = (scores * query.shape[-1] ** -0.5).softmax(dim=0)
            output[position, head] = weights @ values[visible[position]]
    return output


@given(
    num_rows=st.integers(1, 3),
    num_kv_heads=st.integers(1, 3),
    num_groups=st.integers(1, 3),
    length=st.integers(1, 6),
    before=st.integers(0, 4),
    is_bool=st.booleans(),
    seed=st.integers(0, 100),
)
def test_equals_a_loop(
    num_rows: int,
    num_kv_heads: int,
    num_groups: int,
    length: int,
    before: int,
    is_bool: bool,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    query = draw(num_rows, num_kv_heads * num_groups, length, 8)
    key, value = (draw(num_rows, num_kv_heads, before + length, 8) for _ in range(2))
    visible = torch.rand(num_rows, 1, length, before + length, generator=random) < 0.5
    visible[:, :, range(length), range(before, before + length)] = True
    mask = visible if is_bool else torch.where(visible, 0.0, torch.finfo(torch.float32).min)
    attended = attend_short_rows(query, key, value, mask, scale=8**-0.5)
    for row in range(num_rows):
        expected = attend_by_loop(query[row], key[row], value[row], visible[row, 0])
        torch.testing.assert_close(attended[row].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_query_that_sees_nothing_stays_finite() -> None:
    query = key = value = torch.randn(1, 2, 3, 8)
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    assert attend_short_rows(query, key, value, mask, scale=1.0).isfinite().all()


def watch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    attend = attention.attend_short_rows

    def note(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        calls.append(len(query))
        return attend(query, *arguments, **options)

    monkeypatch.setattr(attention, "attend_short_rows", note)
    return calls


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_vectors_are_as_close_to_exact_ones_as_with_the_fused_kernel(
    dtype: str, tiny_family: ModelFactory, build_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = build_encoder(tiny_family()).encode(SENTENCES)
    encoder = build_encoder(tiny_family(dtype=dtype))
    calls = watch(monkeypatch)
    ours = encoder.encode(SENTENCES)
    assert calls
    monkeypatch.setattr(attention, "_MAX_SCORES", 0)
    calls.clear()
    fused = encoder.encode(SENTENCES)
    assert not calls
    scale = np.abs(exact).max()
    assert np.abs(ours - exact).max() <= 1.5 * np.abs(fused - exact).max() + 1e-3 * scale


def test_float32_and_training_keep_the_fused_kernel(
    tiny_llama: ModelFactory, build_encoder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = watch(monkeypatch)
    build_encoder(tiny_llama()).encode(SENTENCES)
    assert not calls
    half = build_encoder(tiny_llama(dtype="bfloat16"))
    assert half.embedder.can_share_trie, "found out without gradient"
    rows = half.token_ids(SENTENCES)
    calls.clear()
    embed_rows(half.embedder, rows, max_tokens=100).sum().backward()
    assert not calls
    half.encode(SENTENCES)
    assert calls
