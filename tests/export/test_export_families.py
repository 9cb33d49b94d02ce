"""Every export format of every backbone family gives the adapter's own vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import (
    CPU,
    LORA,
    PROMPT,
    TEXTS,
    export,
    family_config,
    our_encoder,
    save_tiny_adapter,
)
from tiny_models import TINY_ARCHITECTURES, build_tiny_config

from embedllm import SentenceEncoder
from embedllm.config import AdapterConfig, PromptConfig
from embedllm.export.write import relative_distance
from embedllm.models.adapter_folder import verify_probe
from embedllm.models.loading import load_encoder

TOLERANCE = 1e-5
UNTRAINED = 0.05
"""How far the adapters of these tests move a vector at least."""


def vectors_by_hand(folder: Path, encoder: SentenceEncoder, auto_class: Any) -> np.ndarray:
    """Returns the vectors that transformers alone gives, text by text."""
    model = auto_class.from_pretrained(folder, dtype="float32").eval()
    found = []
    with torch.inference_mode():
        for ids in encoder.token_ids(TEXTS):
            output = model(torch.tensor([ids]), output_hidden_states=True)
            found.append(output.hidden_states[-1][0, -1].numpy())
    return np.stack(found)


@pytest.mark.parametrize("family", TINY_ARCHITECTURES)
def test_merged_weights_in_transformers_alone(family: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    adapter = save_tiny_adapter(tmp_path / "adapter", family)
    ours = our_encoder(adapter)
    expected = ours.encode(TEXTS)
    folder = export(adapter, tmp_path / "merged", format="merged")
    if family == "opt_post_norm":
        # Its tuple of states ends before the projection; the trunk's output does not.
        model = AutoModel.from_pretrained(folder).eval()
        with torch.inference_mode():
            rows = [model(torch.tensor([ids])).last_hidden_state for ids in ours.token_ids(TEXTS)]
        found = np.stack([row[0, -1].numpy() for row in rows])
        assert relative_distance(found, expected) < TOLERANCE
    else:
        for auto_class in (AutoModel, AutoModelForCausalLM):
            found = vectors_by_hand(folder, ours, auto_class)
            assert relative_distance(found, expected) < TOLERANCE
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    text = ours.prompt.render(TEXTS[1])
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ours.token_ids(TEXTS)[1]
    base = load_encoder(family_config(family, tmp_path), PROMPT, tmp_path, device=CPU)
    assert relative_distance(base.encode(TEXTS), expected) > UNTRAINED
    again = SentenceEncoder.load(folder, device="cpu")
    assert relative_distance(again.encode(TEXTS), expected) < TOLERANCE


@pytest.mark.parametrize("family", TINY_ARCHITECTURES)
def test_sentence_transformers_without_any_code_of_ours(family: str, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    adapter = save_tiny_adapter(tmp_path / "adapter", family)
    ours = our_encoder(adapter)
    folder = export(adapter, tmp_path / "st")
    assert not list(folder.rglob("*.py"))
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    for batch_size in (1, 3, 32):
        found = model.encode(TEXTS, batch_size=batch_size)
        assert relative_distance(found, ours.encode(TEXTS)) < TOLERANCE
    again = SentenceEncoder.load(folder, device="cpu").encode(TEXTS)
    assert relative_distance(again, ours.encode(TEXTS)) < TOLERANCE


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_of_a_4_bit_base_goes_onto_the_whole_one(family: str, tmp_path: Path) -> None:
    # Weights of the usual size, which 4 bits do not move beyond what an adapter may be moved by.
    small = {"initializer_range": 0.05}
    model = build_tiny_config(family, quantization="nf4", architecture=small)
    adapter = save_tiny_adapter(tmp_path / "adapter", model, noise=0.05)
    ours = our_encoder(adapter, quantization="none").encode(TEXTS)
    in_4_bits = our_encoder(adapter).encode(TEXTS)
    for kind in ("merged", "sentence-transformers"):
        folder = export(adapter, tmp_path / kind, format=kind)
        weights = load_file(folder / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        found = SentenceEncoder.load(folder, device="cpu").encode(TEXTS)
        assert relative_distance(found, ours) < TOLERANCE
    assert relative_distance(in_4_bits, ours) > UNTRAINED


# Whole blocks of bitsandbytes' CPU kernels.
BLOCKS = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.05},
    "opt": {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64, "init_std": 0.05},
}


@pytest.mark.parametrize("family", BLOCKS)
def test_a_base_that_exists_in_4_bits_alone_is_dequantised(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from embedllm.models.backbone import load_language_model, load_tokenizer

    model = build_tiny_config(family, architecture=BLOCKS[family])
    load_language_model(model, tmp_path, device=CPU).save_pretrained(tmp_path / "whole")
    packed = AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole",
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        device_map="cpu",
        dtype=torch.float32,
    )
    packed.save_pretrained(tmp_path / "packed")
    load_tokenizer(model, tmp_path).save_pretrained(tmp_path / "packed")
    saved = build_tiny_config(
        family, name=str(tmp_path / "packed"), init="pretrained", architecture={}, tokenizer=None
    )
    adapter = save_tiny_adapter(tmp_path / "adapter", saved, noise=0.03)
    with caplog.at_level("INFO"):
        folder = export(adapter, tmp_path / "merged", format="merged")
    assert "de-quantised" in caplog.text
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    # What bitsandbytes itself makes of the packed weights.
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "packed").dequantize()
    name = next(n for n in weights if n.endswith("embed_tokens.weight"))
    torch.testing.assert_close(weights[name], plain.state_dict()[name].float(), atol=0, rtol=0)
    encoder = SentenceEncoder.load(folder, device="cpu")
    assert verify_probe(encoder, adapter, saved_dtype="nf4 (float32)") < 0.4


@pytest.mark.parametrize("tied", [True, False])
def test_full_fine_tuning_is_exported_too(tied: bool, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = build_tiny_config("llama", architecture={"tie_word_embeddings": tied})
    adapter = save_tiny_adapter(tmp_path / "adapter", model, adapter=AdapterConfig(method="full"))
    expected = our_encoder(adapter).encode(TEXTS)
    merged = export(adapter, tmp_path / "merged", format="merged")
    assert ("lm_head.weight" in load_file(merged / "model.safetensors")) is False
    found = SentenceEncoder.load(merged, device="cpu").encode(TEXTS)
    assert relative_distance(found, expected) < TOLERANCE
    folder = export(adapter, tmp_path / "st")
    model = SentenceTransformer(str(folder), device="cpu")
    assert relative_distance(model.encode(TEXTS), expected) < TOLERANCE


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"use_dora": True, "r": 4, "target_modules": "all-linear"}),
        ("ia3", {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
        ("vera", {"r": 4, "target_modules": ["q_proj", "o_proj"]}),
        ("lora", {**LORA.options, "target_modules": ["embed_tokens", "v_proj"]}),
    ],
    ids=["dora", "ia3", "vera", "lora-of-embeddings"],
)
def test_other_methods_merge(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = build_tiny_config("llama", architecture={"tie_word_embeddings": True})
    adapter = save_tiny_adapter(
        tmp_path / "adapter",
        model,
        adapter=AdapterConfig(method=method, options=options),
        noise=0.3,
    )
    expected = our_encoder(adapter).encode(TEXTS)
    folder = export(adapter, tmp_path / "merged", format="merged")
    found = SentenceEncoder.load(folder, device="cpu").encode(TEXTS)
    assert relative_distance(found, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["merged", "sentence-transformers"])
def test_other_types(name: str, kind: str, tmp_path: Path) -> None:
    adapter = save_tiny_adapter(tmp_path / "adapter", "llama", noise=0.05)
    folder = export(adapter, tmp_path / "out", format=kind, dtype=name)
    weights = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{name}"}
    found = SentenceEncoder.load(folder, device="cpu", dtype="float32").encode(TEXTS)
    distance = relative_distance(found, our_encoder(adapter).encode(TEXTS))
    assert TOLERANCE < distance < 0.1


@pytest.mark.parametrize(
    "options",
    [{"pooling": "mean"}, {"pooling": "weighted_mean"}, {"normalize": True}],
    ids=["mean", "weighted", "normalize"],
)
def test_pooling_and_length_travel_along(options: dict[str, Any], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    adapter = save_tiny_adapter(tmp_path / "adapter", build_tiny_config("opt", **options))
    expected = our_encoder(adapter).encode(TEXTS)
    model = SentenceTransformer(str(export(adapter, tmp_path / "st")), device="cpu")
    assert relative_distance(model.encode(TEXTS), expected) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"layer": 1}, PROMPT),
        ({}, PromptConfig(template='"{sentence}" and again "{sentence}" means:"')),
        ({}, PromptConfig(template=PROMPT.template, evaluation_max_sentence_tokens=4)),
    ],
    ids=["layer", "two-slots", "budget"],
)
def test_what_their_modules_cannot_do_ours_does(
    options: dict[str, Any], prompt: PromptConfig, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    adapter = save_tiny_adapter(
        tmp_path / "adapter", build_tiny_config("llama", **options), prompt=prompt
    )
    expected = our_encoder(adapter).encode(TEXTS)
    folder = export(adapter, tmp_path / "st")
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(folder), device="cpu")
    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    assert relative_distance(model.encode(TEXTS), expected) < TOLERANCE
    model.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu", trust_remote_code=True)
    assert relative_distance(again.encode(TEXTS), expected) < TOLERANCE
    assert again.get_embedding_dimension() == 32
