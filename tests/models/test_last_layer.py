"""The last layer at the read places alone: the same vectors, and less work."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ModelFactory
from torch import Tensor, nn

from embedllm.models.backbone import decoder_layers, load_trunk
from embedllm.models.checkpointing import checkpoint_layers
from embedllm.models.embed_rows import embed_packs
from embedllm.models.embedder import Embedder
from embedllm.models.packing import Pack, pack
from embedllm.models.prefix import compute_prefix

ROWS = [[5, 6, 7, 8, 9, 10], [5, 6], [11, 12, 13, 14], [5], [20, 21, 22, 23, 24, 25]]
EQUAL_ROWS = [[5, 6, 7], [5, 6, 8], [9, 10, 11]]
TOLERANCE = 2e-5  # float32, relative to the largest entry
# The trunk of GPT-2 gives its result the shape of its input.
REFUSING = ("gpt2",)


def build(factory: ModelFactory, tmp_path: Path, **options: Any) -> Embedder:
    model = factory(**options)
    trunk = load_trunk(model, tmp_path, device=torch.device("cpu"))
    return Embedder(trunk, layer=model.layer).eval()


def width_of_feed_forward(embedder: Embedder) -> list[int]:
    """Returns a list that grows by the rows of the last layer's last linear map at each call."""
    last = decoder_layers(embedder.trunk)[2][-1]
    linear = [layer for layer in last.modules() if isinstance(layer, nn.Linear)][-1]
    seen: list[int] = []
    linear.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].flatten(0, -2).shape[0])
    )
    return seen


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def both_ways(embedder: Embedder, batch: Pack, **options: Any) -> tuple[Tensor, Tensor]:
    inputs = (batch.input_ids, batch.attention_mask)
    with torch.no_grad():
        early = embedder(*inputs, **options, read_early=True)
        return early, embedder(*inputs, **options, read_early=False)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layer", [-1, 1])
def test_vectors_equal_those_of_the_whole_layer(
    tiny_family: ModelFactory, layer: int, side: str, tmp_path: Path
) -> None:
    embedder = build(tiny_family, tmp_path, layer=layer)
    if not embedder.can_read_early:
        assert embedder.trunk.config.model_type in REFUSING  # type: ignore[union-attr]
        return
    for rows in (ROWS, EQUAL_ROWS, ROWS[:1]):
        [batch] = pack(rows, max_tokens=1000, padding_side=side)
        assert_close(*both_ways(embedder, batch))


def test_behind_a_prefix(tiny_family: ModelFactory, tmp_path: Path) -> None:
    embedder = build(tiny_family, tmp_path)
    if not embedder.can_read_early:
        return
    with torch.no_grad():
        prefix = compute_prefix(embedder.trunk, [2, 90, 91])
    [batch] = pack(ROWS, max_tokens=1000)
    early, whole = both_ways(embedder, batch, prefix=prefix)
    assert_close(early, whole)
    [without] = pack([[2, 90, 91, *row] for row in ROWS], max_tokens=1000)
    expected = both_ways(embedder, without)[1][without.rows.argsort()]
    assert_close(early[batch.rows.argsort()], expected)


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_rest_of_the_last_layer_is_left_out(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    embedder = build(request.getfixturevalue(f"tiny_{family}"), tmp_path)
    assert embedder.can_read_early
    seen = width_of_feed_forward(embedder)
    [batch] = pack(ROWS, max_tokens=1000)
    both_ways(embedder, batch)
    assert seen == [len(ROWS), batch.input_ids.numel()]


def test_gradients_are_the_same_with_recomputation_too(
    tiny_llama: ModelFactory, tmp_path: Path
) -> None:
    found: list[dict[str, Tensor]] = []
    for reads_early, recomputes in ((False, False), (True, False), (True, True)):
        embedder = build(tiny_llama, tmp_path)
        embedder.__dict__["can_read_early"] = reads_early
        if recomputes:
            checkpoint_layers(embedder.trunk)
        vectors = embed_packs(embedder, pack(ROWS, max_tokens=12), recompute=recomputes)
        weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
        (vectors * weights).sum().backward()
        found.append({n: p.grad for n, p in embedder.named_parameters() if p.grad is not None})
    plain = found[0]
    assert max(float(gradient.abs().max()) for gradient in plain.values()) > 1e-3
    for other in found[1:]:
        assert other.keys() == plain.keys()
        for name, gradient in plain.items():
            scale = float(gradient.abs().max())
            assert float((other[name] - gradient).abs().max()) <= 1e-4 * scale + 1e-7, name


def test_a_trunk_that_mixes_places_is_found_out(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    """A norm over the sequence needs all places of the last layer."""
    embedder = build(tiny_llama, tmp_path)
    norm = embedder.trunk.norm
    norm.register_forward_hook(
        lambda module, args, output: output - output.mean(dim=1, keepdim=True)
    )
    assert not embedder.can_read_early


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean"])
def test_not_for_pooling_over_all_tokens(
    tiny_llama: ModelFactory, pooling: str, tmp_path: Path
) -> None:
    trunk = load_trunk(tiny_llama(), tmp_path, device=torch.device("cpu"))
    assert not Embedder(trunk, pooling=pooling).can_read_early


def test_two_embedders_on_one_trunk(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    trunk = load_trunk(tiny_opt(), tmp_path, device=torch.device("cpu"))
    first, second = Embedder(trunk).eval(), Embedder(trunk, normalize=True).eval()
    [batch] = pack(ROWS, max_tokens=1000)
    plain, normal = both_ways(first, batch)[0], both_ways(second, batch)[0]
    assert second.can_read_early
    assert_close(normal, torch.nn.functional.normalize(plain, dim=-1))


def test_nothing_holds_on_to_the_states(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    """The first run ends with an exception, which knows every function that it went through."""
    embedder = build(tiny_llama, tmp_path)
    assert embedder.can_read_early
    states: list[weakref.ref[Tensor]] = []
    decoder_layers(embedder.trunk)[2][0].register_forward_hook(
        lambda module, args, output: states.append(weakref.ref(output))
    )
    [batch] = pack(ROWS, max_tokens=1000)
    gc.collect()
    gc.disable()
    try:
        vectors = embedder(batch.input_ids, batch.attention_mask)
        assert states[-1]() is not None, "the graph needs it"
        del vectors
        assert states[-1]() is None
    finally:
        gc.enable()
