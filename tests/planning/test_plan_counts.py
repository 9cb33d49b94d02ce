"""Parameters of fake models against really built ones, published sizes and bitsandbytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import ModelFactory, build_tiny_config

from embedllm.config import AdapterConfig, ModelConfig
from embedllm.entry import CONF_DIR
from embedllm.errors import ConfigError, ModelError
from embedllm.models.adapters import attach_adapter
from embedllm.models.backbone import load_trunk
from embedllm.planning.fake_model import FakeModel
from embedllm.planning.quantization import int8_bytes, nf4_bytes

CPU = torch.device("cpu")
LORA = AdapterConfig("lora", {"r": 4, "target_modules": "all-linear"})
FULL = AdapterConfig("full")
# Weights that the checkpoints of the Hugging Face hub hold; the head shares the embeddings.
PUBLISHED = {
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
}


def fake(model: ModelConfig, adapter: AdapterConfig = LORA, **options: str) -> FakeModel:
    values = {"kind": "cpu", "precision": "32-true", **options}
    return FakeModel(model, adapter, Path("/nowhere"), **values)


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_counts_and_bytes_are_those_of_a_built_model(
    adapter: AdapterConfig, precision: str, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    if adapter is LORA and tiny_family().architecture["model_type"] == "gpt2":
        adapter = AdapterConfig("lora", {"r": 4})
    counted = fake(tiny_family(), adapter, precision=precision).inventory
    built = attach_adapter(load_trunk(tiny_family(), tmp_path, device=CPU), adapter, seed=0)
    if precision == "bf16-true":
        built = built.to(torch.bfloat16)
    for is_trained, weights in ((True, counted.trainable), (False, counted.frozen)):
        parameters = [p for p in built.parameters() if p.requires_grad is is_trained]
        assert weights.number == sum(p.numel() for p in parameters)
        assert weights.bytes == sum(p.numel() * p.itemsize for p in parameters)
    assert counted.trainable.number > 0
    assert counted.total == sum(p.numel() for p in built.parameters())


def test_an_adapter_over_16_bits_is_trained_in_float32(tiny_opt: ModelFactory) -> None:
    counted = fake(tiny_opt(dtype="bfloat16")).inventory
    assert counted.frozen.bytes == 2 * counted.frozen.number
    assert counted.trainable.bytes == 4 * counted.trainable.number


def test_the_type_that_auto_means_depends_on_the_devices(tiny_opt: ModelFactory) -> None:
    assert fake(tiny_opt(dtype="auto")).dtype == torch.float32
    assert fake(tiny_opt(dtype="auto"), kind="cuda").dtype == torch.bfloat16


def test_removed_layers_are_not_counted(tiny_llama: ModelFactory) -> None:
    one, two = (fake(tiny_llama(layer=layer)).inventory for layer in (1, -1))
    assert two.num_layers == 2 * one.num_layers
    assert two.total - one.total == two.layer.number


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    values: dict[str, Any] = yaml.safe_load((CONF_DIR / f"model/{name}.yaml").read_text())
    counted = fake(ModelConfig(**values), FULL, kind="cuda").inventory
    assert counted.base == PUBLISHED[name]
    assert counted.frozen.number == 0


def test_lora_of_a_large_model() -> None:
    values: dict[str, Any] = yaml.safe_load((CONF_DIR / "model/opt-66b.yaml").read_text())
    adapter = AdapterConfig("lora", {"r": 64, "target_modules": "all-linear"})
    counted = fake(ModelConfig(**values), adapter, kind="cuda").inventory
    hidden, inner, layers = 9216, 36864, 64
    # Four attention matrices and two of the feed-forward block in each layer.
    assert counted.trainable.number == layers * 64 * (4 * 2 * hidden + 2 * (hidden + inner))
    assert counted.matrices.number == layers * (4 * hidden**2 + 2 * hidden * inner)
    assert counted.matmul_weights == counted.matrices.number
    assert counted.embeddings.number == (50272 + 2050) * hidden
    assert 65e9 < counted.base < 66.5e9
    assert counted.nf4_bytes / counted.matrices.number == pytest.approx(0.5159, abs=1e-4)


def test_quantised_matrices_are_the_linear_layers_of_the_base() -> None:
    model = build_tiny_config("opt")
    counted = fake(model).inventory
    assert counted.matrices.number == 2 * (4 * 32 * 32 + 2 * 32 * 64)
    kept = counted.frozen.bytes - counted.matrices.bytes
    assert counted.frozen_bytes("none") == counted.frozen.bytes
    assert counted.frozen_bytes("nf4") == kept + 2 * (4 * nf4_bytes(1024) + 2 * nf4_bytes(2048))
    rows = 2 * (4 * 32 + 32 + 64)
    assert counted.frozen_bytes("int8") == kept + counted.matrices.number + 4 * rows


def storage_of(*tensors: torch.Tensor) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


@pytest.mark.parametrize("shape", [(64, 256), (96, 40), (33, 17), (576, 1536)])
def test_nf4_bytes_are_those_of_bitsandbytes(shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    packed, state = functional.quantize_4bit(
        torch.randn(shape), compress_statistics=True, quant_type="nf4"
    )
    inner = state.state2
    held = (packed, state.absmax, state.code, state.offset, inner.absmax, inner.code)
    assert nf4_bytes(shape[0] * shape[1]) == storage_of(*held)


@pytest.mark.parametrize("shape", [(64, 256), (33, 17)])
def test_int8_bytes_are_those_of_bitsandbytes(shape: tuple[int, int]) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear8bitLt(shape[1], shape[0], bias=False, has_fp16_weights=False)
    layer.weight = bitsandbytes.nn.Int8Params(torch.randn(shape), requires_grad=False).to("cpu")
    held = storage_of(layer.weight.CB, layer.weight.SCB)
    assert int8_bytes(shape[0] * shape[1], num_rows=shape[0]) == held


def test_a_model_without_architecture_needs_a_folder_or_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ModelError, match=r"model\.name: there is no folder /no/model"):
        fake(ModelConfig(name="/no/model"))


def test_an_unknown_architecture_is_refused() -> None:
    model = ModelConfig(name="x", init="random", architecture={"model_type": "cnn"})
    with pytest.raises(ModelError, match="model_type='cnn' is not known"):
        fake(model)


def test_an_adapter_that_does_not_fit_is_refused(tiny_opt: ModelFactory) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.options do not fit"):
        fake(tiny_opt(), AdapterConfig("lora", {"target_modules": ["nothing"]}))
