"""Weights that come block by block are those that the library loads at once."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from load_memory import BLOCK_MIB, MEASURED, WHOLE_MIB, measure, needs_proc
from safetensors.torch import load_file, save_file
from tiny_models import ModelFactory, build_tiny_config
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, LlamaModel

from embedllm.config import AdapterConfig, ModelConfig, PromptConfig
from embedllm.errors import ModelError
from embedllm.models import backbone
from embedllm.models.adapters import attach_adapter, new_adapter
from embedllm.models.backbone import load_language_model, load_model_config, load_trunk
from embedllm.models.checkpoint_files import Checkpoint
from embedllm.models.loading import load_encoder
from embedllm.models.spreading import Spreading
from embedllm.models.structure import decoder_layers
from embedllm.models.weight_stream import RandomWeights, blocks_of, build_without_weights

CPU = torch.device("cpu")
IDS = torch.tensor([[2, 5, 6, 9, 17, 40], [2, 9, 8, 7, 6, 5]])


def load(model: ModelConfig, cache_dir: Path, **options: Any) -> nn.Module:
    return load_trunk(model, cache_dir, device=CPU, **options)


def tensors_of(trunk: nn.Module) -> dict[str, Tensor]:
    """Returns all parameters and buffers, those that no file holds among them."""
    return {**dict(trunk.named_parameters()), **dict(trunk.named_buffers())}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        assert torch.equal(found[name], expected[name]), name


def run(trunk: nn.Module) -> Tensor:
    with torch.no_grad():
        states: Tensor = trunk(IDS, use_cache=False).last_hidden_state
    return states


@pytest.fixture
def only_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded at once fails."""

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("the weights were loaded at once")

    monkeypatch.setattr(backbone, "_load", fail)


# Saved weights


def save_whole(model: ModelConfig, folder: Path, auto_class: Any = AutoModelForCausalLM) -> None:
    torch.manual_seed(0)
    whole = auto_class.from_config(load_model_config(model, folder))
    for parameter in whole.parameters():
        # Biases and norms too: their usual beginning would hide that they were not read.
        nn.init.normal_(parameter, std=0.2)
    whole.save_pretrained(folder)


def as_trunk(folder: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(folder)


def in_shards(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_bin_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in range(2):
        names = sorted(tensors)[number::2]
        file = f"pytorch_model-{number + 1:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


FORMS: dict[str, Callable[[Path], None]] = {
    "whole": lambda folder: None,
    "trunk": as_trunk,
    "shards": in_shards,
    "bin": as_bin,
    "bin_shards": as_bin_shards,
}


@pytest.mark.usefixtures("only_streams")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_weights_are_the_librarys(
    dtype: str, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    save_whole(tiny_family(), folder)
    expected = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    trunk = load(ModelConfig(name=str(folder), dtype=dtype), tmp_path)
    assert_same(tensors_of(trunk), tensors_of(expected))
    assert run(trunk).std() > 0.01
    torch.testing.assert_close(run(trunk), run(expected))


@pytest.mark.usefixtures("only_streams")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["opt_post_norm", "gpt2", "gemma3_text"])
def test_every_form_of_files(form: str, family: str, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save_whole(build_tiny_config(family), folder)
    FORMS[form](folder)
    expected = AutoModel.from_pretrained(folder, dtype=torch.float32)
    trunk = load(ModelConfig(name=str(folder)), tmp_path)
    assert_same(tensors_of(trunk), tensors_of(expected))


def test_a_weight_outlives_its_file(tmp_path: Path) -> None:
    """It is a copy: what is mapped would change, or end the process, with the file."""
    folder = tmp_path / "saved"
    save_whole(build_tiny_config("llama"), folder)
    trunk = load(ModelConfig(name=str(folder)), tmp_path)
    before = run(trunk)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert torch.equal(run(trunk), before)


def test_layers_above_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "saved"
    save_whole(build_tiny_config("llama"), folder)
    names: list[str] = []
    read = Checkpoint.read

    def recorded(self: Checkpoint, shapes: Mapping[str, torch.Size]) -> Iterator[Any]:
        for name, tensor in read(self, shapes):
            names.append(name)
            yield name, tensor

    monkeypatch.setattr(Checkpoint, "read", recorded)
    load(ModelConfig(name=str(folder), layer=1), tmp_path)
    assert any(name.startswith("layers.0.") for name in names)
    assert not any(name.startswith("layers.1.") for name in names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("form", ["renamed", "other_layout", "old_bin"])
def test_what_the_library_must_convert_is_loaded_at_once(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "saved"
    # BERT's old checkpoints call the weights of a norm gamma and beta.
    architecture = {
        "model_type": "bert",
        "is_decoder": True,
        "vocab_size": 640,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    model = ModelConfig(name="x", init="random", architecture=architecture)
    if form == "old_bin":
        model = build_tiny_config("llama")
    save_whole(model, folder, AutoModel)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if form == "old_bin":
        path.unlink()
        path = folder / "pytorch_model.bin"
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        gamma = "LayerNorm.gamma" if form == "renamed" else "LayerNorm.weight_of_old"
        changed = {n.replace("LayerNorm.weight", gamma): t for n, t in tensors.items()}
        assert changed.keys() != tensors.keys()
        save_file(changed, path, metadata={"format": "pt"})
    caplog.set_level(logging.INFO)
    saved = ModelConfig(name=str(folder))
    if form == "other_layout":
        with pytest.raises(ModelError, match=r"lacks \d+ weights of its architecture"):
            load(saved, tmp_path)
    else:
        trunk = load(saved, tmp_path)
        expected = AutoModel.from_pretrained(folder)
        assert_same(dict(trunk.named_parameters()), dict(expected.named_parameters()))
    [message] = [r.message for r in caplog.records if "at once" in r.message]
    assert "block by block" in message


def test_what_the_library_makes_up_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "saved"
    save_whole(build_tiny_config("llama"), folder, AutoModel)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    monkeypatch.setattr(LlamaModel, "_keys_to_ignore_on_load_missing", [r"^norm\.weight$"])
    caplog.set_level(logging.INFO)
    trunk: Any = load(ModelConfig(name=str(folder)), tmp_path)
    assert torch.equal(trunk.norm.weight, torch.ones(32))
    assert "norm.weight is not there, and transformers makes it up" in caplog.text


# Random weights


def test_random_weights_follow_the_library(tiny_family: ModelFactory, tmp_path: Path) -> None:
    """Constants are the same, and what is drawn has the same mean and spread."""
    model = tiny_family()
    trunk = load(model, tmp_path)
    torch.manual_seed(0)
    expected = AutoModel.from_config(load_model_config(model, tmp_path), dtype=torch.float32)
    assert trunk.state_dict().keys() == expected.state_dict().keys()
    assert_same(dict(trunk.named_buffers()), dict(expected.named_buffers()))
    drawn = 0
    for name, parameter in expected.named_parameters():
        found = trunk.get_parameter(name)
        assert found.shape == parameter.shape
        if len(parameter.unique()) <= 2:
            assert torch.equal(found, parameter), name
            continue
        drawn += 1
        # Six standard errors of a mean and of a standard deviation.
        spread, count = parameter.std().item(), parameter.numel()
        assert abs(found.mean().item()) < 6 * spread / count**0.5, name
        assert found.std().item() == pytest.approx(spread, rel=6 / (2 * count) ** 0.5 * 2), name
        zeros = (parameter == 0).flatten(1).all(dim=1)
        assert torch.equal((found == 0).flatten(1).all(dim=1), zeros), f"{name}: padding row"
    assert drawn >= 8
    assert run(trunk).std() > 0.01


def test_no_two_modules_have_the_same_numbers(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    trunk = load(tiny_llama(), tmp_path)
    drawn = [p for p in trunk.parameters() if p.dim() == 2]
    first = {tuple(p.flatten()[:4].tolist()) for p in drawn}
    assert len(first) == len(drawn)


def test_random_weights_do_not_depend_on_the_other_blocks(
    tiny_family: ModelFactory, tmp_path: Path
) -> None:
    whole = load(tiny_family(), tmp_path)
    lower = load(tiny_family(layer=1), tmp_path)
    shared = dict(lower.named_parameters())
    assert_same(shared, {name: whole.get_parameter(name) for name in shared})
    backwards = build_without_weights(load_model_config(tiny_family(), tmp_path), torch.float32)
    weights = RandomWeights(backwards, seed=0)
    for block in reversed(blocks_of(backwards)):
        weights.fill(block, CPU)
    assert_same(dict(backwards.named_parameters()), dict(whole.named_parameters()))


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
def test_random_weights_in_16_bits_are_the_same_rounded(family: str, tmp_path: Path) -> None:
    exact = load(build_tiny_config(family), tmp_path)
    short = load(build_tiny_config(family, dtype="bfloat16"), tmp_path)
    assert_same(
        dict(short.named_parameters()),
        {name: parameter.bfloat16() for name, parameter in exact.named_parameters()},
    )


def test_language_model_has_the_trunks_random_weights(
    tiny_family: ModelFactory, tmp_path: Path
) -> None:
    trunk = load(tiny_family(), tmp_path)
    language_model: Any = load_language_model(tiny_family(), tmp_path, device=CPU)
    assert_same(dict(language_model.base_model.named_parameters()), dict(trunk.named_parameters()))
    head, table = language_model.get_output_embeddings(), language_model.get_input_embeddings()
    is_tied = language_model.config.tie_word_embeddings
    assert (head.weight is table.weight) == is_tied


def test_a_weight_without_a_rule_is_not_left_to_chance(
    tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    trunk = build_without_weights(load_model_config(tiny_opt(), tmp_path), torch.float32)
    layer: Any = decoder_layers(trunk)[2][0]
    layer.gate = nn.Parameter(torch.empty(3, device="meta"))
    weights = RandomWeights(trunk, seed=0)
    with pytest.raises(ModelError, match=r"does not say how decoder\.layers\.0\.gate begins"):
        for block in blocks_of(trunk):
            weights.fill(block, CPU)


def test_no_token_begins_as_zeros(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    # Tokenizers put what they like in front of a text, a model's padding token for example.
    model = tiny_opt()
    model.architecture = {**model.architecture, "pad_token_id": 2}
    trunk: Any = load(model, tmp_path)
    assert (trunk.get_input_embeddings().weight.norm(dim=1) > 0).all()


# Blocks and shards


def test_blocks_hold_everything_once(tiny_family: ModelFactory, tmp_path: Path) -> None:
    trunk = build_without_weights(load_model_config(tiny_family(), tmp_path), torch.float32)
    names = [name for block in blocks_of(trunk) for name, _ in block.members]
    assert sorted(names) == sorted(name for name, _ in trunk.named_modules())
    units = {block.name for block in blocks_of(trunk) if block.is_unit}
    layers, embedding = decoder_layers(trunk)[2], trunk.get_input_embeddings()  # type: ignore[operator]
    found = {id(trunk.get_submodule(name)) for name in units}
    assert {id(module) for module in [*layers, embedding]} <= found


class HalfShard:
    """Keeps the first half of every parameter and says what it was given."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.cut: dict[int, Tensor] = {}

    def __call__(self, module: nn.Module) -> None:
        self.modules.append(module)
        for parameter in module.parameters():
            if id(parameter) not in self.cut:
                self.cut[id(parameter)] = parameter.detach().clone()
                half = parameter.data.flatten()[: -(-parameter.numel() // 2)]
                parameter.data = half.clone()


@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_every_block_is_cut_when_it_is_full(
    init: str, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    model = tiny_family()
    if init == "pretrained":
        save_whole(model, tmp_path / "saved")
        model = ModelConfig(name=str(tmp_path / "saved"))
    whole, shard = load(model, tmp_path), HalfShard()
    trunk = load(model, tmp_path, shard=shard)
    assert shard.modules[-1] is trunk
    assert set(decoder_layers(trunk)[2]) < set(shard.modules)
    assert len(shard.modules) == len(set(shard.modules))
    for name, parameter in trunk.named_parameters():
        expected = whole.get_parameter(name)
        assert torch.equal(shard.cut[id(parameter)], expected), name
        assert parameter.numel() == -(-expected.numel() // 2)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"init_lora_weights": "olora"}])
def test_an_adapter_is_cut_with_its_layer(
    options: dict[str, Any], tiny_family: ModelFactory, tmp_path: Path
) -> None:
    lora = AdapterConfig("lora", {"r": 4, "target_modules": "all-linear", **options})
    whole = attach_adapter(load(tiny_family(), tmp_path), lora, seed=3)
    attachment, shard = new_adapter(lora, seed=3), HalfShard()
    assert attachment.reads_weights == bool(options)
    adapted = load(tiny_family(), tmp_path, attachment=attachment, shard=shard)
    assert shard.modules[-1] is adapted
    for name, parameter in adapted.named_parameters():
        assert torch.equal(shard.cut[id(parameter)], whole.get_parameter(name)), name
        assert parameter.requires_grad == ("lora_" in name)
    assert any(parameter.requires_grad for parameter in adapted.parameters())


def test_a_model_that_reads_ahead_is_refused_before_it_is_cut(tmp_path: Path) -> None:
    architecture = {
        "model_type": "bert",
        "vocab_size": 640,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    shard = HalfShard()
    with pytest.raises(ModelError, match="reads ahead"):
        load_encoder(
            ModelConfig(name="b", init="random", architecture=architecture, tokenizer="bundled"),
            PromptConfig(template="'{sentence}'"),
            tmp_path,
            device=CPU,
            spreading=Spreading(shard, None, may_read_early=True, may_train_prefix=True),
        )
    assert not shard.modules


# Memory


@needs_proc
def test_peak_of_random_weights(tmp_path: Path) -> None:
    options = {"name": "x", "init": "random", "architecture": MEASURED, "dtype": "bfloat16"}
    found = measure(options, tmp_path)
    assert WHOLE_MIB / 2 < found["after"] < WHOLE_MIB / 2 + BLOCK_MIB
    # One block in float32, in which numbers are drawn, beside what stays.
    assert found["peak"] < WHOLE_MIB / 2 + 2 * BLOCK_MIB


@needs_proc
def test_peak_of_sharded_weights(tmp_path: Path) -> None:
    options = {"name": "x", "init": "random", "architecture": MEASURED, "dtype": "float32"}
    found = measure(options, tmp_path, cut=True)
    assert WHOLE_MIB / 2 < found["after"] < WHOLE_MIB / 2 + BLOCK_MIB
    assert found["peak"] < WHOLE_MIB / 2 + 2.5 * BLOCK_MIB


@needs_proc
def test_peak_of_saved_weights(tmp_path: Path) -> None:
    model = ModelConfig(name="x", init="random", architecture=MEASURED)
    config = load_model_config(model, tmp_path)
    folder = tmp_path / "saved"
    config.save_pretrained(folder)
    shapes = build_without_weights(copy.deepcopy(config), torch.bfloat16).state_dict()
    zeros = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in shapes.items()}
    save_file(zeros, folder / "model.safetensors", metadata={"format": "pt"})
    del zeros
    found = measure({"name": str(folder), "dtype": "bfloat16"}, tmp_path)
    assert WHOLE_MIB / 2 < found["after"] < WHOLE_MIB / 2 + BLOCK_MIB
    # A block's part of the file is mapped while it is copied.
    assert found["peak"] < WHOLE_MIB / 2 + 2 * BLOCK_MIB
