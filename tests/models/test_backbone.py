"""The trunk: sources that work, and messages for those that do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TINY_ARCHITECTURES, ModelFactory, build_tiny_config
from torch import nn
from transformers import AutoModelForCausalLM

from embedllm.config import ModelConfig
from embedllm.errors import ConfigError, ModelError
from embedllm.models.backbone import (
    decoder_layers,
    forward_arguments,
    keep_layers,
    load_model_config,
    load_tokenizer,
    load_trunk,
    max_positions,
    resolve_device,
    resolve_dtype,
    resolve_layer,
)
from embedllm.prompts.bundled_tokenizer import VOCAB_SIZE

CPU = torch.device("cpu")
TINY_BERT = {
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def trunk_of(model: ModelConfig, cache_dir: Path, **options: Any) -> nn.Module:
    return load_trunk(model, cache_dir, device=CPU, **options)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a whole language model, head included, and its tokenizer."""
    model = build_tiny_config("llama")
    folder = tmp_path / "saved"
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(load_model_config(model, tmp_path))
    whole.save_pretrained(folder)
    load_tokenizer(model, tmp_path).save_pretrained(folder)
    return folder


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# Layers


@pytest.mark.parametrize(
    ("layer", "num_layers", "resolved"),
    [
        (-1, 12, -1),
        (12, 12, -1),
        (1, 12, 1),
        (11, 12, 11),
        (-2, 12, 11),
        (-12, 12, 1),
        (1, 1, -1),
        (-1, 1, -1),
    ],
)
def test_resolve_layer(layer: int, num_layers: int, resolved: int) -> None:
    assert resolve_layer(layer, num_layers) == resolved


@pytest.mark.parametrize("layer", [0, 13, -13, 100])
def test_layer_that_does_not_exist(layer: int) -> None:
    with pytest.raises(ModelError, match=rf"model\.layer={layer} .*layers 1 to 12"):
        resolve_layer(layer, 12)


def test_layer_is_checked_while_loading(tmp_path: Path, tiny_opt: ModelFactory) -> None:
    with pytest.raises(ModelError, match=r"model\.layer=3"):
        trunk_of(tiny_opt(layer=3), tmp_path)


def test_keep_layers(tiny_family: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_family(), tmp_path)
    first, second = decoder_layers(trunk)[2]
    keep_layers(trunk, 1)
    _, _, kept = decoder_layers(trunk)
    assert list(kept) == [first]
    assert second not in set(trunk.modules())
    assert trunk.config.num_hidden_layers == 1  # type: ignore[union-attr]
    trunk(torch.tensor([[2, 5, 6]]), use_cache=False)


def test_layers_above_are_not_kept(tmp_path: Path, tiny_llama: ModelFactory) -> None:
    whole, short = trunk_of(tiny_llama(), tmp_path), trunk_of(tiny_llama(layer=1), tmp_path)
    assert (len(decoder_layers(whole)[2]), len(decoder_layers(short)[2])) == (2, 1)
    assert same_weights(decoder_layers(whole)[2][0], decoder_layers(short)[2][0])


# Random weights


def test_random_weights_depend_on_the_seed_alone(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = trunk_of(tiny_opt(), tmp_path)
    torch.manual_seed(2)
    second = trunk_of(tiny_opt(), tmp_path)
    other = trunk_of(tiny_opt(init_seed=1), tmp_path)
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_random_weights_leave_the_global_state_alone(
    tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    trunk_of(tiny_opt(), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_trunk_has_no_language_model_head(tiny_family: ModelFactory, tmp_path: Path) -> None:
    trunk = trunk_of(tiny_family(), tmp_path)
    embeddings = trunk.get_input_embeddings()  # type: ignore[operator]
    vocabulary_sized = [name for name, p in trunk.named_parameters() if VOCAB_SIZE in p.shape]
    assert len(vocabulary_sized) == 1
    assert trunk.get_parameter(vocabulary_sized[0]) is embeddings.weight
    assert not trunk.training


def test_trunk_of_a_saved_language_model(saved: Path, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(saved)
    trunk = trunk_of(ModelConfig(name=str(saved)), tmp_path)
    assert same_weights(trunk, whole.base_model)
    assert any("lm_head" in name for name in load_file(saved / "model.safetensors"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_of_the_weights(tiny_opt: ModelFactory, tmp_path: Path, dtype: str) -> None:
    trunk = trunk_of(tiny_opt(dtype=dtype), tmp_path)
    assert {p.dtype for p in trunk.parameters()} == {getattr(torch, dtype)}


def test_auto_dtype_and_device() -> None:
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_device("cpu") == CPU
    if not torch.cuda.is_available():
        assert resolve_device("auto") == CPU
        with pytest.raises(ModelError, match=r"trainer\.accelerator=gpu"):
            resolve_device("gpu")


@pytest.mark.parametrize("family", TINY_ARCHITECTURES)
def test_positions_of_the_config(family: str, tmp_path: Path) -> None:
    model = build_tiny_config(family)
    assert max_positions(load_model_config(model, tmp_path)) == 128
    assert "position_ids" in forward_arguments(trunk_of(model, tmp_path))


def test_alibi_models_have_neither_positions_nor_a_limit(tmp_path: Path) -> None:
    architecture = {
        "model_type": "bloom",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 4,
    }
    model = ModelConfig(name="tiny-bloom", init="random", architecture=architecture)
    assert max_positions(load_model_config(model, tmp_path)) is None
    assert "position_ids" not in forward_arguments(trunk_of(model, tmp_path))


# Architectures that are none


def test_vocabulary_must_fit(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    trunk_of(tiny_opt(), tmp_path, num_tokens=VOCAB_SIZE)
    with pytest.raises(ModelError, match=r"641 tokens .* only 640.*model\.tokenizer"):
        trunk_of(tiny_opt(), tmp_path, num_tokens=VOCAB_SIZE + 1)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ({"model_type": "optt"}, "model_type='optt' is not known"),
        ({"hiden_size": 32}, "keys that a opt model does not: hiden_size"),
        ({"hidden_size": "wide"}, "does not make a model"),
        ({"num_attention_heads": 5}, "does not make a model"),
        ({"activation_function": 3}, "does not make a model"),
    ],
)
def test_architecture_errors(
    architecture: dict[str, Any], reason: str, tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"model\.architecture") as caught:
        trunk_of(tiny_opt(architecture=architecture), tmp_path)
    assert reason in str(caught.value)


def test_unknown_architecture_key_lists_the_known_ones(
    tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"known: .*\bffn_dim\b.*\bhidden_size\b"):
        trunk_of(tiny_opt(architecture={"hiden_size": 32}), tmp_path)


def test_library_names_of_sizes_are_understood(tmp_path: Path) -> None:
    """GPT-2 calls its width n_embd; hidden_size is transformers' common name for it."""
    architecture = {**TINY_ARCHITECTURES["gpt2"]}
    architecture["hidden_size"] = architecture.pop("n_embd")
    model = build_tiny_config("gpt2")
    model = replace(model, architecture=architecture)
    assert load_model_config(model, tmp_path).n_embd == 32


def test_random_weights_need_a_model_type() -> None:
    with pytest.raises(ConfigError, match=r"model\.architecture"):
        ModelConfig(name="x", init="random", architecture={"hidden_size": 32})


@pytest.mark.parametrize("init_seed", [0, 1, 2])
def test_encoder_that_reads_ahead(init_seed: int, tmp_path: Path) -> None:
    model = ModelConfig(
        name="tiny-bert", init="random", architecture=TINY_BERT, init_seed=init_seed
    )
    with pytest.raises(ModelError, match=r"tiny-bert.* reads ahead"):
        trunk_of(model, tmp_path)


def test_bert_as_a_decoder_is_accepted(tmp_path: Path) -> None:
    architecture = {**TINY_BERT, "is_decoder": True}
    trunk_of(ModelConfig(name="x", init="random", architecture=architecture), tmp_path)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_encoder_decoder_is_refused(model_type: str, tmp_path: Path) -> None:
    model = ModelConfig(name="x", init="random", architecture={"model_type": model_type})
    with pytest.raises(ModelError, match=f"is a {model_type} model, not a decoder-only"):
        load_model_config(model, tmp_path)


@pytest.mark.parametrize("model_type", ["llava", "gemma3"])
def test_models_that_see_images_are_refused(model_type: str, tmp_path: Path) -> None:
    model = ModelConfig(name="x", init="random", architecture={"model_type": model_type})
    with pytest.raises(ModelError, match=f"is a {model_type} model"):
        load_model_config(model, tmp_path)


# Folders that are no model


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such/folder", "../no_such_folder"])
def test_missing_folder(name: str, tmp_path: Path) -> None:
    for load in (load_model_config, load_tokenizer):
        with pytest.raises(ModelError, match=r"model\.name: there is no folder"):
            load(ModelConfig(name=name), tmp_path)


def test_missing_tokenizer_folder_names_its_own_key(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.tokenizer: there is no folder"):
        load_tokenizer(tiny_opt(tokenizer="/no/such/folder"), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        "{}",
        '{"model_type": 5}',
        '{"model_type": "no_such_type"}',
        '{"model_type": "opt", "hidden_size": "wide"}',
        "\x00\xff",
    ],
)
def test_garbage_config(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "garbage"
    folder.mkdir()
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"model\.name: the folder .* could not be read"):
        load_model_config(ModelConfig(name=str(folder)), tmp_path)


def test_folder_without_weights(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.name: the folder .*\n.*model\.safetensors"):
        trunk_of(ModelConfig(name=str(saved)), tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 5, 1000, -1])
def test_truncated_weights(num_bytes: int, saved: Path, tmp_path: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ModelError, match=r"model\.name: the folder .* could not be read"):
        trunk_of(ModelConfig(name=str(saved)), tmp_path)


def test_missing_weight_is_not_made_up(saved: Path, tmp_path: Path) -> None:
    """transformers would fill it with random numbers and only warn."""
    path = saved / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .*layers\.1\.mlp\.up_proj\.weight"):
        trunk_of(ModelConfig(name=str(saved)), tmp_path)


def test_weight_of_another_shape(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "intermediate_size": 65}))
    with pytest.raises(ModelError, match=r"model\.name: the folder .* could not be read"):
        trunk_of(ModelConfig(name=str(saved)), tmp_path)


# Tokenizers


def test_tokenizer_of_the_folder(saved: Path, tmp_path: Path) -> None:
    bundled = load_tokenizer(build_tiny_config("opt"), tmp_path)
    own = load_tokenizer(ModelConfig(name=str(saved)), tmp_path)
    elsewhere = load_tokenizer(ModelConfig(name="other", tokenizer=str(saved)), tmp_path)
    text = "A man is riding a horse."
    assert own(text)["input_ids"] == bundled(text)["input_ids"]
    assert elsewhere(text)["input_ids"] == bundled(text)["input_ids"]


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "qwen2", "gpt_neox"])
def test_folder_without_tokenizer(family: str, tmp_path: Path) -> None:
    """For some families transformers makes an empty tokenizer of nothing."""
    folder = tmp_path / family
    load_model_config(build_tiny_config(family), tmp_path).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"model\.name|model\.tokenizer"):
        load_tokenizer(ModelConfig(name=str(folder)), tmp_path)


def test_garbage_tokenizer(saved: Path, tmp_path: Path) -> None:
    (saved / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.name: the folder"):
        load_tokenizer(ModelConfig(name=str(saved)), tmp_path)
