"""Sentences to vectors: order, duplicates, the empty cases, and the state of the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_models import ModelFactory
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from embedllm.errors import ConfigError, ModelError
from embedllm.models import embedder as embedder_module
from embedllm.models import encoder as encoder_module
from embedllm.models.embedder import Embedder
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.packing import Pack
from embedllm.models.trie import TriePack
from embedllm.prompts.tokenize import Row

if TYPE_CHECKING:
    from encoder_builder import EncoderBuilder

ATOL_FLOAT32 = 1e-5
# Distance of unlike sentences; far above what rounding changes.
VISIBLE = 1e-2

SENTENCES = [
    "A man is riding a horse.",
    "Rain!",
    "Two children are playing football on the beach while their parents watch them.",
    "",
    'He said "no".',
    "\U0001f600 caf\u00e9",
]


@pytest.fixture
def encoder(tiny_opt: ModelFactory, build_encoder: EncoderBuilder) -> SentenceEncoder:
    return build_encoder(tiny_opt())


def watch_rows(embedder: Embedder) -> list[int]:
    """Returns a list that grows by the number of rows of every forward pass."""
    _ = embedder.can_read_early  # found out by running the trunk
    seen: list[int] = []
    embed_pack = embedder.embed_pack

    def note(batch: Pack | TriePack, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(len(batch.rows))
        return embed_pack(batch, *arguments, **options)

    embedder.embed_pack = note  # type: ignore[method-assign]
    return seen


def test_order_of_the_input(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(SENTENCES)
    assert vectors.shape == (len(SENTENCES), 32)
    assert vectors.dtype == np.float32
    one_by_one = np.concatenate([encoder.encode([s]) for s in SENTENCES])
    np.testing.assert_allclose(vectors, one_by_one, atol=ATOL_FLOAT32)
    np.testing.assert_allclose(encoder.encode(SENTENCES[::-1]), vectors[::-1], atol=ATOL_FLOAT32)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    assert distances[~np.eye(len(SENTENCES), dtype=bool)].min() > VISIBLE


def test_each_distinct_sentence_is_computed_once(encoder: SentenceEncoder) -> None:
    seen = watch_rows(encoder.embedder)
    repeated = [SENTENCES[i] for i in (0, 1, 0, 0, 2, 1)]
    vectors = encoder.encode(repeated)
    assert sum(seen) == 3
    assert np.array_equal(vectors[0], vectors[2])
    assert np.array_equal(vectors[1], vectors[5])
    plain = encoder.encode(SENTENCES[:3])
    np.testing.assert_allclose(vectors, plain[[0, 1, 0, 0, 2, 1]], atol=ATOL_FLOAT32)


def test_no_sentences(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode([])
    assert vectors.shape == (0, 32)
    assert vectors.dtype == np.float32


def test_no_sentences_has_the_width_of_a_vector(
    tiny_family: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    for layer in (-1, 1):
        encoder = build_encoder(tiny_family(layer=layer))
        assert encoder.encode([]).shape[1] == encoder.encode(["A man."]).shape[1]


def test_a_rank_without_sentences_makes_no_pass_that_others_do_not_know_of(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    # The others have one pass left.
    answers = iter([True, False])

    def any_rank(flag: bool) -> bool:
        told.append(flag)
        return next(answers)

    monkeypatch.setattr(embedder_module, "any_rank", any_rank)
    seen = watch_rows(encoder.embedder)
    encoder.embedder.in_step = True
    assert encoder.encode([]).shape == (0, 32)
    assert told == [False, False]
    assert seen == [1]


def test_empty_sentence(encoder: SentenceEncoder) -> None:
    vector = encoder.encode([""])
    assert vector.shape == (1, 32)
    assert np.isfinite(vector).all()
    # White space alone is cleaned to nothing.
    np.testing.assert_allclose(encoder.encode([" \n"]), vector, atol=ATOL_FLOAT32)


def test_empty_sentence_without_a_template(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    encoder = build_encoder(tiny_opt(pooling="mean"), "{sentence}", clean_up="none")
    assert np.isfinite(encoder.encode(["", "x"])).all()


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(encoder: SentenceEncoder, training: bool) -> None:
    encoder.embedder.train(training)
    during: list[bool] = []
    encoder.embedder.trunk.register_forward_pre_hook(
        lambda module, args: during.append(module.training)
    )
    encoder.encode(SENTENCES)
    assert during
    assert not any(during)
    assert {module.training for module in encoder.embedder.modules()} == {training}


def test_mode_is_restored_after_an_error(encoder: SentenceEncoder) -> None:
    def fail(module: torch.nn.Module, args: Any) -> None:
        raise RuntimeError("no memory")

    encoder.embedder.train()
    encoder.embedder.trunk.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        encoder.encode(SENTENCES)
    assert encoder.embedder.training


def test_dropout_is_off(tiny_opt: ModelFactory, build_encoder: EncoderBuilder) -> None:
    encoder = build_encoder(tiny_opt(architecture={"dropout": 0.5}))
    encoder.embedder.train()
    assert np.array_equal(encoder.encode(SENTENCES), encoder.encode(SENTENCES))
    ids = torch.tensor(encoder.token_ids(SENTENCES[:1]))
    first, second = (encoder.embedder(ids, torch.ones_like(ids)) for _ in range(2))
    assert (first - second).abs().max() > VISIBLE, "dropout is on outside encode"


def test_no_gradients(encoder: SentenceEncoder) -> None:
    encoder.embedder.requires_grad_(True)
    recording: list[bool] = []
    encoder.embedder.trunk.register_forward_hook(
        lambda module, args, output: recording.append(output.last_hidden_state.requires_grad)
    )
    encoder.encode(SENTENCES)
    assert recording
    assert not any(recording)
    assert all(p.grad is None for p in encoder.embedder.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("tokens_per_batch", [1, 50, 100])
def test_tokens_per_batch_does_not_matter(
    tokens_per_batch: int, tiny_family: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    large, small = (
        build_encoder(tiny_family(), tokens_per_batch=tokens) for tokens in (4096, tokens_per_batch)
    )
    large.share_trie = small.share_trie = False
    seen_large, seen_small = watch_rows(large.embedder), watch_rows(small.embedder)
    np.testing.assert_allclose(
        small.encode(SENTENCES), large.encode(SENTENCES), atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32
    )
    assert len(seen_small) > len(seen_large) == 1


@pytest.mark.parametrize("window", [1, 3, 4])
def test_windows_do_not_matter(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, window: int
) -> None:
    whole = encoder.encode(SENTENCES)
    monkeypatch.setattr(encoder_module, "_WINDOW", window)
    np.testing.assert_allclose(encoder.encode(SENTENCES), whole, atol=ATOL_FLOAT32)
    encoder.keep_vectors(tmp_path / "vectors")
    encoder.encode(SENTENCES[::2])
    np.testing.assert_allclose(encoder.encode(SENTENCES), whole, atol=ATOL_FLOAT32)


def test_the_next_window_is_tokenized_while_the_model_works(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "_WINDOW", 2)
    events: list[str] = []
    tokenize, embed = encoder._tokenize, encoder.embedder.embed_pack

    def note_tokenize(texts: Sequence[str]) -> list[Row]:
        assert threading.current_thread() is not threading.main_thread()
        events.append("tokenize")
        return tokenize(texts)

    def wait_for_the_next(*arguments: Any, **options: Any) -> torch.Tensor:
        # The model waits for a window that could only come from elsewhere.
        deadline = time.monotonic() + 60
        while len(events) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return embed(*arguments, **options)

    monkeypatch.setattr(encoder, "_tokenize", note_tokenize)
    monkeypatch.setattr(encoder.embedder, "embed_pack", wait_for_the_next)
    assert len(encoder.encode(SENTENCES[:4])) == 4


def test_an_error_in_the_other_thread_ends_the_call(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(texts: Sequence[str]) -> list[Row]:
        raise ConfigError("the prompt is too long")

    monkeypatch.setattr(encoder, "_tokenize", fail)
    with pytest.raises(ConfigError, match="too long"):
        encoder.encode(SENTENCES)
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_halves_the_budget_and_goes_on(
    error: RuntimeError,
    tiny_opt: ModelFactory,
    build_encoder: EncoderBuilder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = build_encoder(tiny_opt()).encode(SENTENCES)
    encoder = build_encoder(tiny_opt(), tokens_per_batch=4096)
    encoder.share_trie = False
    forward, limit = encoder.embedder.forward, 60
    sizes: list[int] = []

    def run(ids: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        sizes.append(ids.numel())
        if ids.numel() > limit:
            raise error
        return forward(ids, *rest, **options)

    monkeypatch.setattr(encoder.embedder, "forward", run)
    vectors = encoder.encode(SENTENCES)
    np.testing.assert_allclose(vectors, expected, atol=ATOL_FLOAT32, rtol=ATOL_FLOAT32)
    failed = [size for size in sizes if size > limit]
    warnings = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert len(warnings) == len(failed) > 0
    assert f"out of memory with {failed[0]} tokens at once; going on with" in warnings[0]
    # What was learnt stays: no second try of what cannot be.
    sizes.clear()
    encoder.encode(SENTENCES)
    assert max(sizes) <= limit


def test_no_memory_for_one_sentence_is_one_message(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(encoder.embedder, "forward", run)
    with pytest.raises(ModelError, match=r"no memory for one sentence of \d+ tokens.*dtype"):
        encoder.encode(SENTENCES)


def test_out_of_memory_where_others_wait_in_the_same_pass(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0

    def run(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        raise torch.OutOfMemoryError("CUDA out of memory.")

    _ = encoder.embedder.can_share_trie, encoder.embedder.can_read_early
    monkeypatch.setattr(encoder.embedder, "embed_pack", run)
    monkeypatch.setattr(embedder_module, "any_rank", lambda flag: flag)
    encoder.embedder.in_step = True
    with pytest.raises(ModelError, match=r"set a smaller evaluation\.tokens_per_batch \(\d+ or l"):
        encoder.encode(SENTENCES)
    assert passes == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: Any, **options: Any) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(encoder.embedder, "forward", run)
    with pytest.raises(RuntimeError, match="shapes"):
        encoder.encode(SENTENCES)


def test_progress_changes_nothing(encoder: SentenceEncoder) -> None:
    plain = encoder.encode(SENTENCES)
    assert np.array_equal(encoder.encode(SENTENCES, progress="encoding"), plain)


def test_prompt_is_used(tiny_opt: ModelFactory, build_encoder: EncoderBuilder) -> None:
    with_prompt = build_encoder(tiny_opt())
    bare = build_encoder(tiny_opt(), "{sentence}")
    sentence = ["A man is riding a horse."]
    assert np.abs(with_prompt.encode(sentence) - bare.encode(sentence)).max() > VISIBLE
    written_out = 'This sentence : "A man is riding a horse." means in one word:"'
    unchanged = build_encoder(tiny_opt(), "{sentence}", clean_up="none")
    np.testing.assert_allclose(
        unchanged.encode([written_out]), with_prompt.encode(sentence), atol=ATOL_FLOAT32
    )


def test_sentences_longer_than_the_model_are_cut(encoder: SentenceEncoder) -> None:
    assert encoder.max_length == 128
    text = "one two three " * 200
    assert max(map(len, encoder.token_ids([text, "x"]))) <= 128
    assert np.isfinite(encoder.encode([text, "x"])).all()


def test_describe_shows_prompt_and_last_three_tokens(encoder: SentenceEncoder) -> None:
    text = encoder.describe("Rain falls")
    ids = encoder.token_ids(["Rain falls"])[0]
    last = [encoder.tokenizer.convert_ids_to_tokens(i) for i in ids[-3:]]
    assert 'This sentence : "Rain falls." means in one word:"' in text
    assert f"{len(ids)} tokens, the last three {last}" in text
    assert "left out" not in text


def test_describe_tells_of_a_dropped_end_token(encoder: SentenceEncoder) -> None:
    backend = Tokenizer.from_str(encoder.tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    encoder.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert "trailing ['</s>'] is left out" in encoder.describe()
