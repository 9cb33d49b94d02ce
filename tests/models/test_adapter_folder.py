"""The adapter folder: what it holds, and damage that must be found before it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import build_tiny_config

from embedllm.config import AdapterConfig, DemonstrationConfig, ModelConfig, PromptConfig
from embedllm.errors import AdapterError
from embedllm.files import sha256_of
from embedllm.models.adapter_folder import (
    FORMAT_VERSION,
    PROBE_TOLERANCE_SAME_DTYPE,
    read_description,
    save_adapter,
    verify_probe,
)
from embedllm.models.adapters import attach_adapter
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder, load_encoder

if TYPE_CHECKING:
    from torch import Tensor

CPU = torch.device("cpu")
DESCRIPTION = "embedllm.json"
WEIGHTS = "adapter_model.safetensors"
PROBE = "probe.safetensors"
LORA = AdapterConfig(
    method="lora",
    options={"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"},
)
PROMPT = PromptConfig(
    template='This sentence : "{sentence}" means in one word:"',
    demonstrations=[DemonstrationConfig(sentence="A man is smoking.", word="Smoking")],
)


class Saved(NamedTuple):
    folder: Path
    cache_dir: Path
    model: ModelConfig
    encoder: SentenceEncoder

    def load(self, **options: Any) -> SentenceEncoder:
        return load_adapted_encoder(self.folder, self.cache_dir, device=CPU, **options)


def save(tmp_path: Path, model: ModelConfig, adapter: AdapterConfig = LORA) -> Saved:
    cache_dir, folder = tmp_path / "cache", tmp_path / "adapter"
    encoder = load_encoder(model, PROMPT, cache_dir, device=CPU)
    encoder.embedder.trunk = attach_adapter(encoder.embedder.trunk, adapter, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(
        folder, encoder, model=model, prompt=PROMPT, adapter=adapter, training={"step": 20}
    )
    return Saved(folder, cache_dir, model, encoder)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return save(tmp_path, build_tiny_config("opt"))


def edit_description(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / DESCRIPTION
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def renew_checksums(folder: Path) -> None:
    """Makes the checksums those of the present files, so that only later checks can object."""

    def change(values: dict[str, Any]) -> None:
        values["checksums"] = {name: sha256_of(folder / name) for name in values["checksums"]}

    edit_description(folder, change)
    read_description(folder)


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    renew_checksums(folder)


# Content


def test_content_of_a_lora_folder(saved: Saved) -> None:
    names = {path.name for path in saved.folder.iterdir()}
    assert names == {"adapter_config.json", WEIGHTS, DESCRIPTION, PROBE}
    description = read_description(saved.folder)
    assert description.model == saved.model
    assert description.prompt == PROMPT
    assert (description.method, description.dtype) == ("lora", "float32")
    assert description.training == {"step": 20}
    assert description.checksums.keys() == names - {DESCRIPTION}
    assert description.format_version == FORMAT_VERSION
    assert {"torch", "transformers", "peft"} <= description.versions.keys()


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["opt_post_norm", "llama", "gpt2"])
def test_nothing_is_pickled(method: str, family: str, tmp_path: Path) -> None:
    adapter = LORA if method == "lora" else AdapterConfig(method="full")
    folder = save(tmp_path, build_tiny_config(family), adapter).folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        else:
            assert load_file(path)


def test_full_folder_is_a_whole_model(tmp_path: Path) -> None:
    folder = save(tmp_path, build_tiny_config("opt"), AdapterConfig(method="full")).folder
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", DESCRIPTION, PROBE} <= names
    assert "adapter_config.json" not in names


def test_saving_replaces_an_older_folder(saved: Saved) -> None:
    (saved.folder / "stale.json").write_text("{}")
    save_adapter(
        saved.folder, saved.encoder, model=saved.model, prompt=PROMPT, adapter=LORA, training={}
    )
    assert not (saved.folder / "stale.json").exists()
    assert read_description(saved.folder).training == {}
    assert [p.name for p in saved.folder.parent.iterdir() if p.name.startswith(".")] == []


def test_failed_saving_leaves_nothing(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    # By then the weights are written.
    monkeypatch.setattr("embedllm.models.adapter_folder.sha256_of", fail)
    target = tmp_path / "new" / "adapter"
    with pytest.raises(OSError, match="disk full"):
        save_adapter(
            target, saved.encoder, model=saved.model, prompt=PROMPT, adapter=LORA, training={}
        )
    assert list(target.parent.iterdir()) == []


# Damage that the checksums find


def test_no_adapter_folder(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"is no adapter folder.*embedllm\.json"):
        read_description(tmp_path)
    with pytest.raises(AdapterError, match="is no adapter folder"):
        load_adapted_encoder(tmp_path / "missing", tmp_path, device=CPU)


@pytest.mark.parametrize("name", [WEIGHTS, PROBE, "adapter_config.json"])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_flipped_bit(name: str, place: float, saved: Saved) -> None:
    content = bytearray((saved.folder / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (saved.folder / name).write_bytes(content)
    with pytest.raises(AdapterError, match=rf"{name} is damaged.*SHA-256"):
        saved.load()


@pytest.mark.parametrize("name", [WEIGHTS, PROBE, "adapter_config.json"])
def test_missing_file(name: str, saved: Saved) -> None:
    (saved.folder / name).unlink()
    with pytest.raises(AdapterError, match=rf"{name} is missing"):
        saved.load()


def test_truncated_weights(saved: Saved) -> None:
    path = saved.folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AdapterError, match="SHA-256"):
        saved.load()


def test_damage_is_found_before_the_base_is_loaded(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the base model was loaded")

    monkeypatch.setattr("embedllm.models.loading.load_encoder", fail)
    (saved.folder / PROBE).write_bytes(b"")
    with pytest.raises(AdapterError, match="SHA-256"):
        saved.load()


@pytest.mark.parametrize("length", [0, 1, 100, -5])
def test_truncated_description(length: int, saved: Saved) -> None:
    path = saved.folder / DESCRIPTION
    path.write_text(path.read_text()[:length])
    with pytest.raises(AdapterError, match=r"embedllm\.json is damaged"):
        saved.load()


@pytest.mark.parametrize("content", ["[]", "null", "5", '"text"', "{}", "\x00"])
def test_description_that_is_something_else(content: str, saved: Saved) -> None:
    (saved.folder / DESCRIPTION).write_text(content)
    with pytest.raises(AdapterError, match=r"embedllm\.json is damaged"):
        saved.load()


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("model", "no_such_key", 1),
        ("model", "pooling", "max"),
        ("model", "layer", 0),
        ("prompt", "demonstrations", None),
        ("prompt", "clean_up", "thorough"),
    ],
)
def test_description_with_a_wrong_value(group: str, key: str, value: Any, saved: Saved) -> None:
    edit_description(saved.folder, lambda values: values[group].update({key: value}))
    with pytest.raises(AdapterError, match=r"embedllm\.json is damaged"):
        saved.load()


@pytest.mark.parametrize("key", ["model", "prompt", "method", "dtype", "format_version"])
def test_description_without_a_key(key: str, saved: Saved) -> None:
    edit_description(saved.folder, lambda values: values.pop(key))
    with pytest.raises(AdapterError, match=r"embedllm\.json is damaged"):
        saved.load()


@pytest.mark.parametrize("checksums", [{}, None, [], "text"])
def test_description_without_checksums(checksums: Any, saved: Saved) -> None:
    edit_description(saved.folder, lambda values: values.update(checksums=checksums))
    with pytest.raises(AdapterError, match=r"embedllm\.json is damaged"):
        saved.load()


def test_newer_format(saved: Saved) -> None:
    edit_description(
        saved.folder, lambda values: values.update(format_version=FORMAT_VERSION + 1, model={})
    )
    with pytest.raises(AdapterError, match="has format 2, this version reads 1; update embedllm"):
        saved.load()


def test_facts_of_later_versions_are_ignored(saved: Saved) -> None:
    edit_description(saved.folder, lambda values: values.update(remark="text"))
    assert read_description(saved.folder).training == {"step": 20}


# Damage behind right checksums


def first_of(weights: dict[str, Tensor]) -> str:
    return min(weights)


def drop(weights: dict[str, Tensor]) -> None:
    del weights[first_of(weights)]


def add(weights: dict[str, Tensor]) -> None:
    weights["base_model.model.decoder.extra.lora_A.weight"] = torch.ones(4, 32)


def reshape(weights: dict[str, Tensor]) -> None:
    weights[first_of(weights)] = weights[first_of(weights)].T.contiguous()


def rename(weights: dict[str, Tensor]) -> None:
    name = first_of(weights)
    weights[name.replace("layers.0", "layers.7")] = weights.pop(name)


@pytest.mark.parametrize("change", [drop, add, reshape, rename])
def test_weights_that_do_not_fit(change: Callable[[dict[str, Tensor]], None], saved: Saved) -> None:
    edit_weights(saved.folder, change)
    with pytest.raises(AdapterError, match="adapter weights do not fit the model"):
        saved.load()


@pytest.mark.parametrize("name", [WEIGHTS, PROBE])
@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\x08" + 7 * b"\x00" + b"{}      "],
    ids=["empty", "garbage", "no tensor"],
)
def test_no_safetensors_behind_right_checksums(name: str, content: bytes, saved: Saved) -> None:
    (saved.folder / name).write_bytes(content)
    renew_checksums(saved.folder)
    with pytest.raises(AdapterError):
        saved.load()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"peft_type": "NONE"}'])
def test_no_adapter_config_behind_right_checksums(content: str, saved: Saved) -> None:
    (saved.folder / "adapter_config.json").write_text(content)
    renew_checksums(saved.folder)
    with pytest.raises(AdapterError):
        saved.load()


def test_probe_refuses_tampered_weights(saved: Saved) -> None:
    def tamper(weights: dict[str, Tensor]) -> None:
        weights[first_of(weights)] *= 1.5

    edit_weights(saved.folder, tamper)
    with pytest.raises(AdapterError, match="does not give the vectors it was saved with"):
        saved.load()


def test_probe_refuses_weights_that_are_not_numbers(saved: Saved) -> None:
    def tamper(weights: dict[str, Tensor]) -> None:
        weights[first_of(weights)] *= float("nan")

    edit_weights(saved.folder, tamper)
    with pytest.raises(AdapterError, match="relative distance nan"):
        saved.load()


def test_probe_refuses_an_untrained_adapter(saved: Saved) -> None:
    """The silent failure that the probe is for: the adapter is there but does nothing."""

    def reset(weights: dict[str, Tensor]) -> None:
        for name in weights:
            if "lora_B" in name:
                weights[name].zero_()

    edit_weights(saved.folder, reset)
    with pytest.raises(AdapterError, match="does not give the vectors it was saved with"):
        saved.load()


def test_probe_refuses_another_base(saved: Saved) -> None:
    saved.load(model=saved.model)
    with pytest.raises(AdapterError, match="does not give the vectors it was saved with"):
        saved.load(model=replace(saved.model, init_seed=1))


@pytest.mark.parametrize(
    ("key", "value"), [("pooling", "mean"), ("pooling", "weighted_mean"), ("normalize", True)]
)
def test_probe_refuses_another_reading_of_the_states(key: str, value: Any, saved: Saved) -> None:
    edit_description(saved.folder, lambda values: values["model"].update({key: value}))
    with pytest.raises(AdapterError, match="does not give the vectors it was saved with"):
        saved.load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("template", 'This sentence : "{sentence}" means'),
        # Stripped at the end of the prompt, but not at the end of the demonstration.
        ("template", 'This sentence : "{sentence}" means in one word:" '),
        ("clean_up", "none"),
        ("demonstrations", []),
        ("demonstration_end", '" .'),
        ("evaluation_max_sentence_tokens", 5),
    ],
)
def test_probe_refuses_another_prompt(key: str, value: Any, saved: Saved) -> None:
    edit_description(saved.folder, lambda values: values["prompt"].update({key: value}))
    with pytest.raises(AdapterError, match="does not give the vectors it was saved with"):
        saved.load()


def test_probe_names_another_width(tmp_path: Path) -> None:
    saved = save(tmp_path, build_tiny_config("opt_post_norm"))
    other = load_encoder(build_tiny_config("opt"), PROMPT, saved.cache_dir, device=CPU)
    with pytest.raises(AdapterError, match="width 16, this model gives 32"):
        verify_probe(other, saved.folder, saved_dtype="float32")


def test_probe_tells_its_distance(saved: Saved) -> None:
    distance = verify_probe(saved.encoder, saved.folder, saved_dtype="float32")
    assert distance < PROBE_TOLERANCE_SAME_DTYPE / 100


def test_description_is_plain_json(saved: Saved) -> None:
    values = json.loads((saved.folder / DESCRIPTION).read_text())
    assert values["model"] == asdict(saved.model)
    assert values["prompt"] == asdict(PROMPT)
