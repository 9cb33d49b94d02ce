"""From a config or an adapter folder to an encoder that gives the right vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_models import ModelFactory, build_tiny_config

from embedllm.config import AdapterConfig, ModelConfig, PromptConfig
from embedllm.errors import AdapterError, ConfigError, ModelError
from embedllm.models.adapter_folder import save_adapter
from embedllm.models.adapters import attach_adapter
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder, load_encoder

if TYPE_CHECKING:
    from encoder_builder import EncoderBuilder

CPU = torch.device("cpu")
ATOL_FLOAT32 = 1e-6
# Relative distance that shows that bfloat16 was at work; it keeps 8 bits.
BFLOAT16_VISIBLE = 1e-4
# What the adapters here do to a vector, relative to its length.
TRAINED_VISIBLE = 0.05

SENTENCES = ["A man is riding a horse.", "Rain!", "", 'Two children said "no".']
PROMPT = PromptConfig(template='This sentence : "{sentence}" means in one word:"')
LORA = AdapterConfig(
    method="lora",
    options={"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"},
)
FULL = AdapterConfig(method="full")


def train_and_save(
    tmp_path: Path, model: ModelConfig, adapter: AdapterConfig, *, strength: float = 0.2
) -> tuple[Path, SentenceEncoder]:
    """Returns the folder of an adapter with made-up training, and the encoder it came from."""
    encoder = load_encoder(model, PROMPT, tmp_path / "cache", device=CPU)
    before = encoder.encode(SENTENCES)
    encoder.embedder.trunk = attach_adapter(encoder.embedder.trunk, adapter, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    assert relative_distance(encoder.encode(SENTENCES), before) > TRAINED_VISIBLE
    folder = tmp_path / "adapter"
    save_adapter(folder, encoder, model=model, prompt=PROMPT, adapter=adapter, training={})
    return folder, encoder


def relative_distance(vectors: np.ndarray, reference: np.ndarray) -> float:
    distances = np.linalg.norm(vectors - reference, axis=1) / np.linalg.norm(reference, axis=1)
    return float(distances.max())


def load(folder: Path, tmp_path: Path, **options: Any) -> SentenceEncoder:
    return load_adapted_encoder(folder, tmp_path / "cache", device=CPU, **options)


# A base model as it is


def test_settings_of_the_config_arrive(build_encoder: EncoderBuilder) -> None:
    model = build_tiny_config("opt", pooling="mean", normalize=True, layer=-2)
    encoder = build_encoder(model, tokens_per_batch=77, evaluation_max_sentence_tokens=3)
    embedder = encoder.embedder
    assert (embedder.pooling, embedder.normalize, embedder.layer) == ("mean", True, 1)
    assert (encoder.tokens_per_batch, encoder.max_length) == (77, 128)
    assert encoder.prompt.max_sentence_tokens == 3
    assert not embedder.training


def test_last_layer_by_its_number_is_the_output(
    tiny_opt_post_norm: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    by_number = build_encoder(tiny_opt_post_norm(layer=2)).encode(SENTENCES)
    np.testing.assert_array_equal(by_number, build_encoder(tiny_opt_post_norm()).encode(SENTENCES))


def test_errors_of_the_prompt_cost_no_weights(
    tiny_opt: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("embedllm.models.loading.load_trunk", fail)
    with pytest.raises(ConfigError, match=r"prompt\.template"):
        load_encoder(tiny_opt(), PromptConfig(template="none"), tmp_path, device=CPU)
    with pytest.raises(ModelError, match=r"model\.tokenizer"):
        load_encoder(tiny_opt(tokenizer="/no/such/folder"), PROMPT, tmp_path, device=CPU)


def test_tokenizer_larger_than_the_model(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    model = tiny_opt(architecture={"vocab_size": 300})
    with pytest.raises(ModelError, match=r"640 tokens .* only 300"):
        load_encoder(model, PROMPT, tmp_path, device=CPU)


# Saved and loaded again


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
def test_loaded_equals_saved(
    adapter: AdapterConfig, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    folder, trained = train_and_save(tmp_path, tiny_family(), adapter)
    loaded = load(folder, tmp_path)
    np.testing.assert_allclose(
        loaded.encode(SENTENCES), trained.encode(SENTENCES), atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32
    )
    assert not any(module.training for module in loaded.embedder.modules())


@pytest.mark.parametrize("method", ["ia3", "vera", "loha", "dora"])
def test_other_methods_load_as_saved(method: str, tiny_llama: ModelFactory, tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "ia3": {},
        "vera": {"r": 16, "target_modules": ["q_proj"]},
        "loha": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        "dora": {**LORA.options, "use_dora": True},
    }
    adapter = AdapterConfig(method="lora" if method == "dora" else method, options=options[method])
    folder, trained = train_and_save(tmp_path, tiny_llama(), adapter, strength=2.0)
    np.testing.assert_allclose(
        load(folder, tmp_path).encode(SENTENCES),
        trained.encode(SENTENCES),
        atol=ATOL_FLOAT32,
        rtol=ATOL_FLOAT32,
    )


@pytest.mark.parametrize(
    "options", [{"pooling": "mean"}, {"layer": 1}, {"normalize": True}], ids=str
)
def test_adapter_brings_its_own_reading(options: dict[str, Any], tmp_path: Path) -> None:
    folder, trained = train_and_save(tmp_path, build_tiny_config("opt", **options), LORA)
    # Another copy of the base may be named; pooling, layer and length stay the saved ones.
    loaded = load(folder, tmp_path, model=build_tiny_config("opt"))
    np.testing.assert_allclose(
        loaded.encode(SENTENCES), trained.encode(SENTENCES), atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32
    )


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_bfloat16_load_of_a_float32_adapter(
    family: str, adapter: AdapterConfig, tmp_path: Path
) -> None:
    model = build_tiny_config(family)
    # A gentle training, as the tolerance is meant for: rounding of wild weights is larger.
    folder, trained = train_and_save(tmp_path, model, adapter, strength=0.05)
    loaded = load(folder, tmp_path, model=replace(model, dtype="bfloat16"))
    embeddings = loaded.embedder.trunk.get_input_embeddings()  # type: ignore[operator]
    assert embeddings.weight.dtype == torch.bfloat16
    distance = relative_distance(loaded.encode(SENTENCES), trained.encode(SENTENCES))
    assert BFLOAT16_VISIBLE < distance < TRAINED_VISIBLE * 2


def test_loading_trains_nothing(tiny_opt: ModelFactory, tmp_path: Path) -> None:
    folder, _ = train_and_save(tmp_path, tiny_opt(), LORA)
    assert not any(p.requires_grad for p in load(folder, tmp_path).embedder.parameters())


def test_loading_leaves_the_global_random_state_alone(
    tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    folder, _ = train_and_save(tmp_path, tiny_opt(), LORA)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load(folder, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_full_folder_needs_no_base(tmp_path: Path) -> None:
    """The folder is the model: it is moved, and the base it came from no longer exists."""
    base = tmp_path / "base"
    made = load_encoder(build_tiny_config("llama"), PROMPT, tmp_path / "cache", device=CPU)
    made.embedder.trunk.save_pretrained(base)  # type: ignore[operator]
    made.tokenizer.save_pretrained(base)
    folder, trained = train_and_save(tmp_path, ModelConfig(name=str(base), dtype="float32"), FULL)
    expected = trained.encode(SENTENCES)
    moved = tmp_path / "elsewhere" / "adapter"
    moved.parent.mkdir()
    folder.rename(moved)
    for path in base.iterdir():
        path.unlink()
    np.testing.assert_allclose(
        load(moved, tmp_path).encode(SENTENCES), expected, atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32
    )


def test_lora_needs_its_base(tmp_path: Path) -> None:
    base = tmp_path / "base"
    made = load_encoder(build_tiny_config("llama"), PROMPT, tmp_path / "cache", device=CPU)
    made.embedder.trunk.save_pretrained(base)  # type: ignore[operator]
    made.tokenizer.save_pretrained(base)
    folder, trained = train_and_save(tmp_path, ModelConfig(name=str(base), dtype="float32"), LORA)
    copy = tmp_path / "copy"
    base.rename(copy)
    with pytest.raises(ModelError, match=r"model\.name: there is no folder"):
        load(folder, tmp_path)
    elsewhere = ModelConfig(name=str(copy), dtype="float32")
    np.testing.assert_allclose(
        load(folder, tmp_path, model=elsewhere).encode(SENTENCES),
        trained.encode(SENTENCES),
        atol=ATOL_FLOAT32,
        rtol=ATOL_FLOAT32,
    )


def test_adapter_of_another_family(tmp_path: Path) -> None:
    folder, _ = train_and_save(tmp_path, build_tiny_config("opt"), LORA)
    with pytest.raises(AdapterError, match=r"do(es)? not fit"):
        load(folder, tmp_path, model=build_tiny_config("llama"))


def test_adapter_of_another_size(tmp_path: Path) -> None:
    folder, _ = train_and_save(tmp_path, build_tiny_config("opt"), LORA)
    wider = build_tiny_config("opt", architecture={"ffn_dim": 96})
    with pytest.raises(AdapterError, match="adapter weights do not fit the model"):
        load(folder, tmp_path, model=wider)
