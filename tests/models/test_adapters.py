"""Adapters: where they sit, what is trained, and what is refused."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_models import ModelFactory
from tiny_runs import compose_train
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from embedllm.config import AdapterConfig, ModelConfig
from embedllm.entry import CONF_DIR
from embedllm.errors import AdapterError, ConfigError
from embedllm.models.adapters import (
    adapter_state,
    attach_adapter,
    check_adapter_config,
    load_adapter_state,
    trainable_state,
)
from embedllm.models.backbone import load_trunk
from embedllm.models.embed_rows import embed_packs
from embedllm.models.embedder import Embedder
from embedllm.models.packing import pack

ATOL_FLOAT32 = 1e-5
# Far above rounding: what an adapter that is not the identity does to a vector.
VISIBLE = 1e-2
ROWS = [[2, 9, 0, 17], [2, *range(40, 62)], [2, 5, 6, 7, 8, 9, 10]]
LORA = AdapterConfig(
    method="lora",
    options={"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"},
)


@lru_cache
def shipped(name: str) -> AdapterConfig:
    """Returns `adapter=<name>` as train.py composes it."""
    adapter = compose_train(f"adapter={name}", "run_name=test").adapter
    assert isinstance(adapter, AdapterConfig)
    return adapter


def trunk_of(model: ModelConfig, tmp_path: Path) -> nn.Module:
    return load_trunk(model, tmp_path, device=torch.device("cpu"))


def vectors_of(trunk: nn.Module) -> Tensor:
    return embed_packs(Embedder(trunk).eval(), pack(ROWS, max_tokens=4096))


def linear_layers(trunk: nn.Module) -> set[str]:
    return {n for n, m in trunk.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def fill(trunk: nn.Module, seed: int = 1) -> nn.Module:
    """Gives the trainable weights values under which the adapter does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.2 * noise)
    return trunk


def random_state_is_kept(action: Any) -> bool:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    action()
    return torch.equal(torch.rand(3), expected)


# LoRA


def test_lora_is_on_every_linear_layer(tiny_family: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_family(), tmp_path)
    expected = linear_layers(trunk)
    adapted: Any = attach_adapter(trunk, LORA, seed=0)
    base = adapted.get_base_model()
    found = {name for name, m in base.named_modules() if isinstance(m, BaseTunerLayer)}
    assert found == expected
    # Four or more projections in each of the two layers, or two where they are fused.
    assert len(found) >= 8


def test_lora_is_on_the_projections_of_post_norm_opt(
    tiny_opt_post_norm: ModelFactory, tmp_path: Path
) -> None:
    """paper_method 3.3: OPT-350M has two more layers that qualify."""
    adapted = attach_adapter(trunk_of(tiny_opt_post_norm(), tmp_path), LORA, seed=0)
    names = set(adapter_state(adapted))
    for layer in ("project_in", "project_out", "layers.1.fc2", "layers.0.self_attn.out_proj"):
        assert any(f"decoder.{layer}.lora_A" in name for name in names)


def test_lora_starts_as_the_identity(tiny_family: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_family(), tmp_path)
    before = vectors_of(trunk).detach()
    adapted = attach_adapter(trunk, LORA, seed=0)
    torch.testing.assert_close(vectors_of(adapted), before, atol=ATOL_FLOAT32, rtol=0)
    assert (vectors_of(fill(adapted)) - before).abs().max() > VISIBLE


def test_only_adapter_weights_are_trained(tiny_family: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_family(), tmp_path)
    adapted = attach_adapter(trunk, LORA, seed=0)
    names = set(trainable_state(adapted))
    assert names == {name for name, _ in adapted.named_parameters() if "lora_" in name}
    assert len(names) == len(adapter_state(adapted))


def test_every_trainable_weight_gets_a_gradient(tiny_family: ModelFactory, tmp_path: Path) -> None:
    adapted = fill(attach_adapter(trunk_of(tiny_family(), tmp_path), LORA, seed=0))
    vectors_of(adapted).sin().sum().backward()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_lora_of_a_shortened_trunk(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    adapted = attach_adapter(trunk_of(tiny_opt(layer=1), tmp_path), LORA, seed=0)
    assert all("layers.0." in name for name in trainable_state(adapted))


def test_seed_decides_the_initial_weights(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(torch.randint(1000, ()).item())
        return adapter_state(attach_adapter(trunk_of(tiny_llama(), tmp_path), LORA, seed=seed))

    first, again, other = state(3), state(3), state(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    moved = {name for name in first if not torch.equal(first[name], other[name])}
    assert moved == {name for name in first if "lora_A" in name}


def test_global_random_state_is_left_alone(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_llama(), tmp_path)
    assert random_state_is_kept(lambda: attach_adapter(trunk, LORA, seed=0))


# Other methods


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "vera"])
def test_shipped_methods_attach_and_train(
    name: str, tiny_llama: ModelFactory, tmp_path: Path
) -> None:
    trunk = trunk_of(tiny_llama(), tmp_path)
    before = vectors_of(trunk).detach()
    adapted = attach_adapter(trunk, shipped(name), seed=0)
    torch.testing.assert_close(vectors_of(adapted), before, atol=ATOL_FLOAT32, rtol=0)
    trained = trainable_state(adapted)
    total = sum(p.numel() for p in adapted.parameters())
    assert 0 < sum(value.numel() for value in trained.values()) < total
    vectors_of(fill(adapted)).sin().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for p in adapted.parameters()
        if p.requires_grad
    )


def test_shipped_lora_is_the_recipe_of_the_paper() -> None:
    options = shipped("lora").options
    assert options == {
        "r": 64,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": "all-linear",
    }
    assert shipped("dora").options == {**options, "use_dora": True}


def test_dora_learns_a_magnitude(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    adapted = attach_adapter(trunk_of(tiny_llama(), tmp_path), shipped("dora"), seed=0)
    assert any("magnitude" in name for name in trainable_state(adapted))


def test_every_shipped_method_is_accepted() -> None:
    files = sorted(path.stem for path in (CONF_DIR / "adapter").glob("*.yaml"))
    assert {"lora", "dora", "ia3", "vera", "full"} <= set(files)
    for name in files:
        check_adapter_config(shipped(name))


def test_full_trains_every_weight(tiny_family: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_family(), tmp_path)
    adapted = attach_adapter(trunk, AdapterConfig(method="full"), seed=0)
    assert adapted is trunk
    assert set(trainable_state(adapted)) == {name for name, _ in trunk.named_parameters()}
    vectors_of(adapted).sin().sum().backward()
    assert all(p.grad is not None for p in adapted.parameters())


def test_none_trains_nothing(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_opt(), tmp_path)
    assert attach_adapter(trunk, AdapterConfig(method="none"), seed=0) is trunk
    assert trainable_state(trunk) == {}


# What is refused


def test_unknown_method_lists_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.method='lorra'.*none, full,.*\blora\b"):
        check_adapter_config(AdapterConfig(method="lorra"))


def test_unknown_option_lists_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.options.*rank;.*\blora_alpha\b.*\br\b"):
        check_adapter_config(AdapterConfig(method="lora", options={"rank": 8}))


@pytest.mark.parametrize("method", ["full", "none"])
def test_options_without_an_adapter(method: str) -> None:
    check_adapter_config(AdapterConfig(method=method))
    with pytest.raises(ConfigError, match=r"takes no adapter\.options, got r"):
        check_adapter_config(AdapterConfig(method=method, options={"r": 8}))


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_prompt_learning_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="virtual tokens"):
        check_adapter_config(AdapterConfig(method=method, options={"num_virtual_tokens": 4}))


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["no_such_module"]},
        {"target_modules": "all-linear", "r": 0},
        {"target_modules": "all-linear", "r": -1},
    ],
)
def test_options_that_do_not_fit_the_model(
    options: dict[str, Any], tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.options"):
        attach_adapter(
            trunk_of(tiny_opt(), tmp_path), AdapterConfig(method="lora", options=options), seed=0
        )


# Weights in and out


def test_state_goes_from_one_model_to_another(tiny_family: ModelFactory, tmp_path: Path) -> None:
    first = fill(attach_adapter(trunk_of(tiny_family(), tmp_path), LORA, seed=0))
    second = attach_adapter(trunk_of(tiny_family(), tmp_path), LORA, seed=1)
    expected = vectors_of(first)
    assert (vectors_of(second) - expected).abs().max() > VISIBLE
    load_adapter_state(second, adapter_state(first))
    torch.testing.assert_close(vectors_of(second), expected, atol=ATOL_FLOAT32, rtol=0)


def test_incomplete_state_is_refused(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    adapted = attach_adapter(trunk_of(tiny_opt(), tmp_path), LORA, seed=0)
    state = adapter_state(adapted)
    name = sorted(state)[0]
    without = {key: value for key, value in state.items() if key != name}
    with pytest.raises(AdapterError, match=f"1 adapter weights .*{name}.* the file has none"):
        load_adapter_state(adapted, without)
    with pytest.raises(AdapterError, match=r"superfluous.* the model expects none"):
        load_adapter_state(adapted, {**state, "superfluous": torch.ones(2)})
    with pytest.raises(AdapterError, match=rf"{name}.* the file has \(1, 2\)"):
        load_adapter_state(adapted, {**state, name: torch.ones(1, 2)})
