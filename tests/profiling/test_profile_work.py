"""Useful operations against a count by hand, and the machine's ceiling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoder_builder import EncoderBuilder
from tiny_models import ModelFactory

from embedllm.models.backbone import load_trunk
from embedllm.planning import ceiling
from embedllm.planning.ceiling import Ceiling, MatrixProduct, measure_ceiling
from embedllm.planning.work import count_matmul_weights, useful_factor, widest_layer

CPU = torch.device("cpu")
# Two layers of width 32 with feed-forward blocks of 64; four heads of 8, in Llama two of keys.
OPT_WEIGHTS = 2 * (4 * 32 * 32 + 2 * 32 * 64)
LLAMA_WEIGHTS = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)


def test_matmul_weights_of_an_opt(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    trunk = load_trunk(tiny_opt(), tmp_path, device=CPU)
    assert count_matmul_weights(trunk) == OPT_WEIGHTS == 16_384
    assert widest_layer(trunk) == (32, 64)


def test_projections_of_a_small_embedding_count(
    tiny_opt_post_norm: ModelFactory, tmp_path: Path
) -> None:
    trunk = load_trunk(tiny_opt_post_norm(), tmp_path, device=CPU)
    assert count_matmul_weights(trunk) == OPT_WEIGHTS + 2 * 16 * 32


def test_matmul_weights_of_a_llama(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    trunk = load_trunk(tiny_llama(), tmp_path, device=CPU)
    assert count_matmul_weights(trunk) == LLAMA_WEIGHTS == 18_432


def test_removed_layers_need_nothing(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    trunk = load_trunk(tiny_llama(layer=1), tmp_path, device=CPU)
    assert count_matmul_weights(trunk) == LLAMA_WEIGHTS // 2


def test_no_embedding_counts_in_any_family(
    tiny_family: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    model = tiny_family()
    embedder = build_encoder(model).embedder
    weights = count_matmul_weights(embedder.trunk)
    everything = sum(p.numel() for p in embedder.parameters())
    assert 0 < weights < everything
    model.architecture["vocab_size"] *= 2
    assert count_matmul_weights(build_encoder(model).embedder.trunk) == weights


@pytest.mark.parametrize(
    ("is_training", "trains_all", "factor"),
    [(False, False, 2), (False, True, 2), (True, False, 4), (True, True, 6)],
)
def test_operations_per_weight_and_token(is_training: bool, trains_all: bool, factor: int) -> None:
    assert useful_factor(is_training=is_training, trains_all=trains_all) == factor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ceiling_is_the_best_of_all_products(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "_SQUARES", {"cpu": (32, 128)})
    monkeypatch.setattr(ceiling, "_MIN_SECONDS", 0.01)
    threads = torch.get_num_threads()
    measured = measure_ceiling(CPU, dtype, model_shape=(48, 16, 32))
    assert measured.dtype == str(dtype).removeprefix("torch.")
    names = [product.name for product in measured.products]
    assert names == ["48 x 16 x 32", "32 x 32 x 32", "128 x 128 x 128"]
    rates = [product.flops_per_second for product in measured.products]
    assert min(rates) > 0
    assert measured.best.flops_per_second == max(rates)
    assert torch.get_num_threads() == threads


def test_a_slow_machine_skips_the_large_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "_time_product", lambda rows, *_: rows / 512)
    measured = measure_ceiling(CPU, torch.float32, model_shape=(8, 8, 8))
    assert [product.rows for product in measured.products] == [8, 512]
    assert measured.products[1].flops_per_second == 2 * 512**3


def test_the_best_product() -> None:
    products = tuple(MatrixProduct(1, 1, n, float(n)) for n in (2, 5, 3))
    assert Ceiling("float32", products).best.columns == 5
