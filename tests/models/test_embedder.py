"""Vectors against the library's own hidden states, and everything they must not depend on."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ModelFactory, build_tiny_config
from tiny_runs import compose_train
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig

from embedllm.config import ModelConfig
from embedllm.entry import CONF_DIR
from embedllm.models.backbone import load_model_config, load_trunk, resolve_layer
from embedllm.models.embed_rows import embed_packs
from embedllm.models.embedder import Embedder
from embedllm.models.packing import pack

CPU = torch.device("cpu")
ATOL_FLOAT32 = 1e-5
# What a mistake changes must be far above the tolerance, or the test would not see it.
VISIBLE = 1e-2

# Lengths differ, so that packs are padded; id 0 is also the filler.
ROWS = [[2, 9, 0, 17], [2, 30], [2, *range(40, 62)], [2, 0, 0], [2, 5, 6, 7, 8, 9, 10], [3]]


def embedder_of(model: ModelConfig, tmp_path: Path) -> Embedder:
    trunk = load_trunk(model, tmp_path, device=CPU)
    num_layers = load_model_config(model, tmp_path).num_hidden_layers
    layer = resolve_layer(model.layer, num_layers)
    return Embedder(trunk, pooling=model.pooling, layer=layer, normalize=model.normalize).eval()


@torch.inference_mode()
def vectors_of(
    embedder: Embedder, rows: list[list[int]] = ROWS, *, max_tokens: int = 4096, side: str = "right"
) -> Tensor:
    return embed_packs(embedder, pack(rows, max_tokens=max_tokens, padding_side=side))


@torch.inference_mode()
def library_states(model: ModelConfig, tmp_path: Path) -> list[tuple[Tensor, ...]]:
    """Returns the hidden-state tuple of each row, run alone through the whole language model."""
    trunk = load_trunk(ModelConfig(**{**vars(model), "layer": -1}), tmp_path, device=CPU)
    whole = AutoModelForCausalLM.from_config(load_model_config(model, tmp_path)).eval()
    whole.base_model.load_state_dict(trunk.state_dict())
    outputs = [whole(torch.tensor([row]), output_hidden_states=True) for row in ROWS]
    return [output.hidden_states for output in outputs]


def test_last_entry_at_the_last_position(tiny_family: ModelFactory, tmp_path: Path) -> None:
    """paper_method 1: the last entry of the hidden-state tuple at the last real token."""
    states = library_states(tiny_family(), tmp_path)
    vectors = vectors_of(embedder_of(tiny_family(), tmp_path))
    expected = torch.stack([entries[-1][0, -1] for entries in states])
    torch.testing.assert_close(vectors, expected, atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32)
    # Neither the position before nor the layer before would have passed.
    before = torch.stack([entries[-1][0, -2] for entries in states if entries[-1].shape[1] > 1])
    assert (before - expected[:-1]).abs().amax(dim=1).min() > VISIBLE
    if states[0][-2].shape == states[0][-1].shape:
        below = torch.stack([entries[-2][0, -1] for entries in states])
        assert (below - expected).abs().amax(dim=1).min() > VISIBLE


def test_layer_is_the_index_of_the_tuple(tiny_family: ModelFactory, tmp_path: Path) -> None:
    states = library_states(tiny_family(), tmp_path)
    vectors = vectors_of(embedder_of(tiny_family(layer=1), tmp_path))
    expected = torch.stack([entries[1][0, -1] for entries in states])
    torch.testing.assert_close(vectors, expected, atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32)


@pytest.mark.parametrize("layer", [1, 2, 3, 4, -1, -2, -4])
@pytest.mark.parametrize("family", ["opt", "opt_post_norm", "llama"])
def test_every_layer(family: str, layer: int, tmp_path: Path) -> None:
    model = build_tiny_config(family, architecture={"num_hidden_layers": 4}, layer=layer)
    states = library_states(model, tmp_path)
    vectors = vectors_of(embedder_of(model, tmp_path))
    # The tuple has an entry before the first layer, so negative numbers mean the same in both.
    expected = torch.stack([entries[layer][0, -1] for entries in states])
    torch.testing.assert_close(vectors, expected, atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32)
    if layer in (1, 2, 3):
        above = torch.stack([entries[layer + 1][0, -1] for entries in states])
        assert above.shape != expected.shape or (above - expected).abs().max() > VISIBLE


def test_post_norm_opt_has_the_projected_width(
    tiny_opt_post_norm: ModelFactory, tmp_path: Path
) -> None:
    assert vectors_of(embedder_of(tiny_opt_post_norm(), tmp_path)).shape == (len(ROWS), 16)
    assert vectors_of(embedder_of(tiny_opt_post_norm(layer=1), tmp_path)).shape == (len(ROWS), 32)


# What a vector must not depend on (paper_method 8, check 2)


def test_padding_side_does_not_matter(tiny_family: ModelFactory, tmp_path: Path) -> None:
    embedder = embedder_of(tiny_family(), tmp_path)
    right, left = vectors_of(embedder), vectors_of(embedder, side="left")
    torch.testing.assert_close(left, right, atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32)


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean"])
@pytest.mark.parametrize("layer", [-1, 1])
def test_padding_side_does_not_matter_for_means(
    pooling: str, layer: int, tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    embedder = embedder_of(tiny_opt(pooling=pooling, layer=layer), tmp_path)
    right, left = vectors_of(embedder), vectors_of(embedder, side="left")
    torch.testing.assert_close(left, right, atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32)


@pytest.mark.parametrize("max_tokens", [1, 30, 70])
def test_batch_size_does_not_matter(
    max_tokens: int, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    embedder = embedder_of(tiny_family(), tmp_path)
    assert len(pack(ROWS, max_tokens=max_tokens)) > len(pack(ROWS, max_tokens=4096))
    torch.testing.assert_close(
        vectors_of(embedder, max_tokens=max_tokens),
        vectors_of(embedder),
        atol=ATOL_FLOAT32,
        rtol=ATOL_FLOAT32,
    )


def test_companions_and_order_do_not_matter(tiny_family: ModelFactory, tmp_path: Path) -> None:
    embedder = embedder_of(tiny_family(), tmp_path)
    vectors = vectors_of(embedder)
    companions = [[2, *range(100, 100 + n)] for n in (1, 40, 7)]
    order = [3, 0, 5, 1, 4, 2]
    mixed = vectors_of(embedder, companions + [ROWS[i] for i in order])[len(companions) :]
    torch.testing.assert_close(mixed, vectors[order], atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32)
    assert (torch.cdist(vectors, vectors) + torch.eye(len(ROWS))).min() > VISIBLE


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_wrong_mask_would_show(side: str, tiny_family: ModelFactory, tmp_path: Path) -> None:
    """The tests above could not pass with padding treated as text, or with the reference's mask."""
    embedder = embedder_of(tiny_family(), tmp_path)
    (everything,) = pack(ROWS, max_tokens=4096, padding_side=side)
    with torch.inference_mode():
        right = embedder(everything.input_ids, everything.attention_mask)
        padding_as_text = embedder(everything.input_ids, torch.ones_like(everything.input_ids))
        # paper_method 1.3: "id greater than 0" hides real tokens whose id is 0.
        by_id = embedder(everything.input_ids, (everything.input_ids > 0).long())
    is_padded = (everything.attention_mask == 0).any(dim=1)
    moved = (padding_as_text - right).abs().amax(dim=1)
    # A window can be too short to see padding that lies far to the left.
    assert (moved[is_padded] > VISIBLE).float().mean() > 0.7
    assert (moved[~is_padded] < ATOL_FLOAT32 * 10).all()
    has_zero = torch.tensor([0 in ROWS[i] for i in everything.rows.tolist()])
    moved = (by_id - right).abs().amax(dim=1)
    assert (moved[has_zero] > VISIBLE).all()
    torch.testing.assert_close(
        by_id[~has_zero], right[~has_zero], atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32
    )


def test_learned_positions_are_passed(tiny_family: ModelFactory, tmp_path: Path) -> None:
    """With left padding the first real token has position 0."""
    embedder = embedder_of(tiny_family(), tmp_path)
    _ = embedder.can_read_early  # found out by running the trunk
    seen: list[dict[str, Any]] = []
    embedder.trunk.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    vectors_of(embedder, [[2, 7, 8], [2]], side="left")
    assert seen[0]["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    vectors_of(embedder, [[2, 7, 8], [2, 7]], side="left")
    assert seen[1]["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]]


# Pooling, length, gradient


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean"])
@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("family", ["opt", "opt_post_norm", "llama"])
def test_means_against_a_loop(family: str, layer: int, pooling: str, tmp_path: Path) -> None:
    model = build_tiny_config(family, pooling=pooling, layer=layer)
    expected = []
    for entries in library_states(model, tmp_path):
        total, weights = torch.zeros(entries[layer].shape[-1]), 0
        for position, state in enumerate(entries[layer][0]):
            weight = position + 1 if pooling == "weighted_mean" else 1
            total, weights = total + weight * state, weights + weight
        expected.append(total / weights)
    torch.testing.assert_close(
        vectors_of(embedder_of(model, tmp_path)),
        torch.stack(expected),
        atol=ATOL_FLOAT32,
        rtol=ATOL_FLOAT32,
    )


def test_normalize(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    plain = vectors_of(embedder_of(tiny_opt(), tmp_path))
    unit = vectors_of(embedder_of(tiny_opt(normalize=True), tmp_path))
    torch.testing.assert_close(unit, plain / plain.norm(dim=1, keepdim=True))
    assert (plain.norm(dim=1) - 1).abs().min() > VISIBLE


def test_vectors_are_float32_for_any_weights(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    vectors = vectors_of(embedder_of(tiny_opt(dtype="bfloat16"), tmp_path))
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()


@pytest.mark.parametrize("layer", [-1, 1])
def test_gradient_does_not_depend_on_packs(
    layer: int, tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    gradients = []
    for max_tokens in (1, 30, 4096):
        embedder = embedder_of(tiny_opt(layer=layer), tmp_path).requires_grad_(True)
        vectors = embed_packs(embedder, pack(ROWS, max_tokens=max_tokens))
        (vectors * torch.arange(1.0, len(ROWS) + 1).unsqueeze(1)).sin().sum().backward()
        table = embedder.trunk.get_input_embeddings().weight  # type: ignore[operator]
        gradients.append(table.grad.clone())
    assert gradients[0].norm() > VISIBLE
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-4, rtol=1e-4)


def test_state_of_a_removed_layer_is_not_kept_alive(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    embedder = embedder_of(tiny_opt(layer=1), tmp_path)
    vectors_of(embedder)
    kept = [v for v in vars(embedder).values() if isinstance(v, Tensor)]
    assert kept == [], "a kept state would hold the memory of a whole batch"


# The shipped architectures, on the meta device: shapes without memory


@lru_cache
def shipped(name: str) -> PreTrainedConfig:
    """Returns the architecture of `model=<name> model.init=random`."""
    overrides = [f"model={name}", "model.init=random", "model.tokenizer=bundled", "run_name=test"]
    return load_model_config(compose_train(*overrides).model, Path("unused"))


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        trunk = AutoModel.from_config(shipped(name), dtype=torch.float32)
    assert isinstance(trunk, nn.Module)
    return trunk


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# name: layers, hidden size, heads, word embedding width (Zhang et al. 2022, table 1).
OPT_SIZES = {
    "opt-125m": (12, 768, 12, 768),
    "opt-350m": (24, 1024, 16, 512),
    "opt-1.3b": (24, 2048, 32, 2048),
    "opt-2.7b": (32, 2560, 32, 2560),
    "opt-6.7b": (32, 4096, 32, 4096),
    "opt-13b": (40, 5120, 40, 5120),
    "opt-30b": (48, 7168, 56, 7168),
    "opt-66b": (64, 9216, 72, 9216),
}
# name: layers, hidden size, heads, width of the feed-forward part, and the published number of
# parameters of the whole model, head included (Touvron et al. 2023, table 2, unrounded).
LLAMA_SIZES = {
    "llama-7b": (32, 4096, 32, 11008, 6_738_415_616),
    "llama-13b": (40, 5120, 40, 13824, 13_015_864_320),
    "llama-30b": (60, 6656, 52, 17920, 32_528_943_616),
    "llama-65b": (80, 8192, 64, 22016, 65_285_660_672),
}


@pytest.mark.parametrize("name", OPT_SIZES)
def test_opt_has_the_published_size(name: str) -> None:
    layers, hidden, heads, width = OPT_SIZES[name]
    vocabulary, positions, ffn = 50272, 2048 + 2, 4 * hidden
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * ffn + ffn + hidden
    per_layer = attention + feed_forward + 2 * (2 * hidden)
    expected = vocabulary * width + positions * hidden + layers * per_layer
    if name == "opt-350m":
        expected += 2 * width * hidden  # projections in and out, and no final norm
    else:
        expected += 2 * hidden
    assert num_parameters(on_meta(name)) == expected
    assert shipped(name).num_attention_heads == heads
    if name == "opt-125m":
        assert expected == 125_239_296


@pytest.mark.parametrize("name", LLAMA_SIZES)
def test_llama_has_the_published_size(name: str) -> None:
    layers, hidden, heads, ffn, published = LLAMA_SIZES[name]
    per_layer = 4 * hidden * hidden + 3 * hidden * ffn + 2 * hidden
    table = 32000 * hidden
    expected = table + layers * per_layer + hidden
    assert num_parameters(on_meta(name)) == expected
    # The trunk has no head, which LLaMA does not share with the embedding table.
    assert expected + table == published
    assert shipped(name).num_attention_heads == heads


def test_every_shipped_size_is_in_a_table() -> None:
    files = {path.stem for path in (CONF_DIR / "model").glob("*.yaml")}
    assert {f for f in files if f.startswith(("opt-", "llama-"))} == {*OPT_SIZES, *LLAMA_SIZES}


@pytest.mark.parametrize(("name", "width"), [("opt-350m", 512), ("opt-125m", 768)])
def test_width_of_the_real_architecture(name: str, width: int) -> None:
    """paper_method 8, check 3: OPT-350M gives 512, not its hidden size of 1024."""
    # Width does not depend on depth, and one layer with real weights costs little.
    config = shipped(name)
    config.num_hidden_layers = 1
    trunk = AutoModel.from_config(config, dtype=torch.float32).eval()
    vectors = vectors_of(Embedder(trunk, pooling="last"))
    assert vectors.shape == (len(ROWS), width)
    assert (vectors[0] - vectors[1]).abs().max() > VISIBLE
    if name == "opt-350m":
        assert shipped(name).hidden_size == 1024
        projection = trunk.get_submodule("decoder.project_out")
        assert projection.weight.shape == (512, 1024)
        assert trunk.decoder.final_layer_norm is None  # type: ignore[union-attr]
