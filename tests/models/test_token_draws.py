"""Draws that belong to tokens: the same wherever a token is computed, and random otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ModelFactory
from torch import Tensor

from embedllm.config import AdapterConfig, ModelConfig
from embedllm.models.adapters import attach_adapter
from embedllm.models.backbone import load_trunk
from embedllm.models.checkpointing import checkpoint_layers
from embedllm.models.dropout import FewBitsDropout, drop
from embedllm.models.embed_rows import embed_rows
from embedllm.models.embedder import Embedder
from embedllm.models.token_draws import TokenDraws, drawing_by, random_words, scramble

_ROWS = [[5, 6, 7, 8, 9], [5, 6, 7, 10], [5, 6, 11, 12, 13, 14], [5, 6, 7, 8], [5, 6, 20]]
_DROPOUT = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.3, "target_modules": "all-linear"}


def _draws() -> TokenDraws:
    torch.manual_seed(0)
    return TokenDraws.new(torch.device("cpu"))


def _numbers_of(row: list[int], draws: TokenDraws) -> Tensor:
    ids = torch.tensor([row])
    return draws.of_rows(ids, torch.arange(len(row)).unsqueeze(0), torch.ones_like(ids))[0]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), st.data())
def test_a_prefix_can_be_cut_off_anywhere(row: list[int], data: st.DataObject) -> None:
    draws = _draws()
    cut = data.draw(st.integers(1, len(row) - 1))
    ids = torch.tensor(row)
    rest = draws.behind(ids[:cut]).of_rows(
        ids[cut:].unsqueeze(0),
        torch.arange(cut, len(row)).unsqueeze(0),
        torch.ones(1, len(row) - cut, dtype=torch.long),
    )
    assert torch.equal(rest[0], _numbers_of(row, draws)[cut:])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_equal_beginnings_have_equal_numbers_and_others_do_not(
    left: list[int], right: list[int]
) -> None:
    draws = _draws()
    right = [*right, 4]
    first, second = _numbers_of(left, draws), _numbers_of(right, draws)
    for place, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=False)):
        assert (a == b) == (left[: place + 1] == right[: place + 1])


def test_another_step_has_other_numbers() -> None:
    torch.manual_seed(0)
    first, second = (TokenDraws.new(torch.device("cpu")) for _ in range(2))
    assert not torch.any(_numbers_of([5, 6, 7], first) == _numbers_of([5, 6, 7], second))


def test_every_bit_depends_on_every_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**62), 2**62, (4000,), generator=generator)
    plain = scramble(numbers.clone())
    for bit in range(0, 64, 7):
        flipped = scramble(numbers ^ (torch.ones((), dtype=torch.int64) << bit))
        changed = (plain ^ flipped).unsqueeze(1) >> torch.arange(64) & 1
        share = changed.double().mean(dim=0)
        # Each bit of the result flips about half of the time.
        assert float(share.min()) > 0.3, bit
        assert float(share.max()) < 0.7, bit


def test_words_of_tokens_and_layers_are_independent() -> None:
    numbers = _numbers_of(list(range(64)), _draws())
    drawn = [random_words(numbers, width=64, stream=stream) for stream in (0, 1, -1, -17)]
    dropped = [words.view(torch.int16).lt(-(2**15) + 6554).double() for words in drawn]
    for one in dropped:
        assert float(one.mean()) == pytest.approx(0.1, abs=0.01)
        # Over tokens, over entries, over the four entries of a word.
        assert float(one.mean(dim=0).max()) < 0.35
        assert float(one.mean(dim=1).max()) < 0.2
    flat = torch.stack([one.flatten() for one in dropped])
    neighbours = torch.stack([flat[0][:-256], flat[0][256:], flat[0].roll(1)[:-256]])
    for group in (flat, neighbours):
        correlation = torch.corrcoef(group) - torch.eye(len(group))
        assert float(correlation.abs().max()) < 0.03


def test_dropout_follows_the_tokens() -> None:
    draws = _draws()
    layer = FewBitsDropout(0.5)
    one, other = _numbers_of([5, 6, 7], draws), _numbers_of([5, 6, 8], draws)
    with drawing_by(torch.stack([one, other])):
        first, second = layer(torch.ones(2, 3, 40))
    assert torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2], second[2])
    with drawing_by(one.unsqueeze(0)):
        assert torch.equal(layer(torch.ones(1, 3, 40))[0], first)
        assert not torch.equal(drop(torch.ones(1, 3, 40), 0.5, stream=1)[0], first)


def _vectors(embedder: Embedder, **options: object) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(7)
    embedder.zero_grad()
    arguments = {"max_tokens": 12, **options}
    vectors = embed_rows(embedder, _ROWS, **arguments)  # type: ignore[arg-type]
    # Behind a norm the vectors' length is no loss: it hardly changes.
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    return vectors.detach(), [p.grad for p in embedder.parameters() if p.grad is not None]


def _build(model: ModelConfig, tmp_path: Path, *, method: str = "full") -> Embedder:
    trunk = load_trunk(model, tmp_path, device=torch.device("cpu"))
    options = dict(_DROPOUT) if method == "lora" else {}
    return Embedder(attach_adapter(trunk, AdapterConfig(method, options), seed=0)).train()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_computed_together_changes_nothing(
    tiny_family: ModelFactory, method: str, tmp_path: Path
) -> None:
    embedder = _build(tiny_family(), tmp_path, method=method)
    for name, parameter in embedder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    embedder.draw_by_token()
    plain, gradients = _vectors(embedder, share_prefix=False)
    largest = max(float(gradient.norm()) for gradient in gradients)
    embedder.eval()
    with torch.no_grad():
        undropped = embed_rows(embedder, _ROWS, max_tokens=12)
    embedder.train()
    if method == "lora":
        assert not torch.allclose(plain, undropped, rtol=1e-2)
    for change in (
        {"max_tokens": 1000, "share_prefix": False},
        {"share_prefix": True},
        {"max_tokens": 1000},
        {"recompute": True},
        {"num_shared": 1},
    ):
        vectors, found = _vectors(embedder, **change)
        torch.testing.assert_close(vectors, plain, rtol=2e-5, atol=2e-5)
        for left, right in zip(found, gradients, strict=True):
            # Some are zero but for rounding: attention does not change with the keys' bias.
            scale = max(float(right.norm()), 1e-2 * largest)
            assert float((left - right).norm()) <= 2e-5 * scale, change


@pytest.mark.parametrize("method", ["lora", "full"])
def test_functional_dropout_with_checkpointed_layers(
    tiny_opt_post_norm: ModelFactory, method: str, tmp_path: Path
) -> None:
    found = []
    for checkpointed in (False, True):
        model = tiny_opt_post_norm(architecture={"dropout": 0.4})
        embedder = _build(model, tmp_path, method=method)
        embedder.draw_by_token()
        if checkpointed:
            checkpoint_layers(embedder.trunk)
        found.append(_vectors(embedder))
    (plain, gradients), (vectors, again) = found
    assert torch.equal(plain, vectors)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_the_functional_dropouts_of_a_layer_are_not_alike(
    tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    seen: list[tuple[int, float]] = []

    def spy(states: Tensor, rate: float, *, stream: int) -> Tensor:
        seen.append((stream, rate))
        return drop(states, rate, stream=stream)

    embedder = _build(tiny_opt(architecture={"dropout": 0.4}), tmp_path)
    embedder.draw_by_token()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedllm.models.dropout.drop", spy)
        embed_rows(embedder, _ROWS, max_tokens=1000, share_prefix=False)
    streams = [stream for stream, _ in seen]
    assert len(streams) >= 4
    assert len(set(streams)) == len(streams)
    assert all(rate == 0.4 for _, rate in seen)
