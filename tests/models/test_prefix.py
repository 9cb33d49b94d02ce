"""Sharing the beginning of all prompts changes no vector, over all families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ModelFactory

from embedllm.models import encoder as encoder_module
from embedllm.models.prefix import common_prefix_length

if TYPE_CHECKING:
    from encoder_builder import EncoderBuilder

TOLERANCE = 2e-5  # float32, relative to the largest entry
SENTENCES = [
    "A man is riding a horse",
    "Rain falls",
    "",
    "Two children are playing football on the beach while their parents watch them",
    "What is the best way to learn how to swim?",
    "A man is riding",
]


def demonstration() -> dict[str, Any]:
    from embedllm.config import DemonstrationConfig

    return {"demonstrations": [DemonstrationConfig(sentence="Snow falls.", word="Winter")]}


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("options", [{}, demonstration()], ids=["plain", "demonstration"])
def test_vectors_equal_those_without_sharing(
    tiny_family: ModelFactory, build_encoder: EncoderBuilder, options: dict[str, Any], layer: int
) -> None:
    encoder = build_encoder(tiny_family(layer=layer), **options, tokens_per_batch=100)
    assert encoder.embedder.can_share_prefix
    assert common_prefix_length(encoder.token_ids(SENTENCES)) >= 3
    shared = encoder.encode(SENTENCES)
    encoder.share_prefix = False
    plain = encoder.encode(SENTENCES)
    assert np.abs(shared - plain).max() <= TOLERANCE * np.abs(plain).max()


def test_the_prefix_is_really_left_out_of_the_rows(
    tiny_llama: ModelFactory, build_encoder: EncoderBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build_encoder(tiny_llama(), **demonstration())
    encoder.share_trie = False
    full = [len(ids) for ids in encoder.token_ids(SENTENCES)]
    num_shared = common_prefix_length(encoder.token_ids(SENTENCES))
    assert encoder.embedder.can_read_early
    seen: list[int] = []
    forward = encoder.embedder.forward

    def note(ids: torch.Tensor, mask: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        seen.append(int(mask.sum()))
        return forward(ids, mask, *rest, **options)

    monkeypatch.setattr(encoder.embedder, "forward", note)
    encoder.encode(SENTENCES)
    assert num_shared > 10
    assert sum(seen) == sum(full) - num_shared * len(full)


def test_a_wrong_prefix_would_show(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build_encoder(tiny_opt())
    right = encoder.encode(SENTENCES)
    compute = encoder_module.compute_prefix
    monkeypatch.setattr(
        encoder_module, "compute_prefix", lambda trunk, ids: compute(trunk, [*ids[:-1], 7])
    )
    assert np.abs(encoder.encode(SENTENCES) - right).max() > 100 * TOLERANCE * np.abs(right).max()


def test_pooling_over_all_tokens_shares_nothing(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    encoder = build_encoder(tiny_opt(pooling="mean"))
    shared = encoder.encode(SENTENCES)
    encoder.share_prefix = False
    assert np.array_equal(shared, encoder.encode(SENTENCES))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=4, max_size=12))
def test_length_is_that_of_the_definition(rows: list[list[int]]) -> None:
    length = common_prefix_length(rows)
    assert all(row[:length] == rows[0][:length] for row in rows)
    assert length < min(map(len, rows))
    longer = length + 1
    if length:
        is_longest = longer >= min(map(len, rows)) or any(
            row[:longer] != rows[0][:longer] for row in rows
        )
        assert is_longest


def test_with_prompt_keeps_the_weights_and_the_other_encoder(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    from embedllm.config import PromptConfig
    from embedllm.prompts.template import build_prompt

    encoder = build_encoder(tiny_opt())
    before = encoder.encode(SENTENCES)
    other = encoder.with_prompt(build_prompt(PromptConfig(template="{sentence}, so")))
    assert other.embedder is encoder.embedder
    assert not np.allclose(other.encode(SENTENCES), before)
    assert np.array_equal(encoder.encode(SENTENCES), before)
