"""Our models under MTEB: what it hands over and what it gets back, task by task."""

from __future__ import annotations

import importlib.util
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from local_mteb_tasks import (
    PROMPT,
    RecordingEncoder,
    classification_task,
    our_score,
    recording_encoder,
    retrieval_task,
    sample_pairs,
    scores_of,
    sts_task,
    well_separated_pairs,
)
from numpy.typing import NDArray
from tiny_models import build_tiny_config

from embedllm.errors import ConfigError
from embedllm.evaluation.metrics import cosine_similarity_pairs, spearman
from embedllm.evaluation.mteb_adapter import MTEBEncoder
from embedllm.evaluation.tasks import PairSubset

if TYPE_CHECKING:
    from embedllm.models.encoder import SentenceEncoder

SCORE_TOLERANCE = 1e-6
# float32 vectors of a tiny model, computed in other batches.
VECTOR_TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError(f"a connection was opened: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def mteb() -> Any:
    return pytest.importorskip("mteb", reason="mteb is not installed (embedllm[mteb])")


@pytest.fixture
def encoder(mteb: Any, tmp_path: Path) -> RecordingEncoder:
    return recording_encoder(tmp_path)


def vector_by_hand(encoder: SentenceEncoder, text: str) -> NDArray[np.float32]:
    """Returns the state at the end of a text, without prompt, packing or padding."""
    ids = encoder.tokenizer(text, add_special_tokens=True, return_tensors="pt")["input_ids"]
    if ids[0, -1] == encoder.tokenizer.eos_token_id:
        ids = ids[:, :-1]
    with torch.inference_mode():
        states = encoder.embedder.trunk(input_ids=ids).last_hidden_state
    return states[0, -1].numpy()


def test_it_is_an_encoder_to_mteb(encoder: MTEBEncoder) -> None:
    from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol

    assert isinstance(encoder, EncoderProtocol)
    assert not isinstance(encoder, CrossEncoderProtocol | SearchProtocol)


def test_sts_score_equals_ours(encoder: RecordingEncoder) -> None:
    pairs = well_separated_pairs(encoder.encoder)
    theirs = scores_of(encoder, sts_task(pairs))
    ours = our_score(encoder.encoder, pairs)
    assert theirs["spearman"] == pytest.approx(ours, abs=SCORE_TOLERANCE)
    assert theirs["main_score"] == pytest.approx(ours, abs=SCORE_TOLERANCE)
    assert theirs["main_score"] == theirs["cosine_spearman"]
    assert abs(ours) > 0.01


def test_sts_score_is_that_of_the_vectors_that_mteb_got(encoder: RecordingEncoder) -> None:
    pairs = sample_pairs()
    theirs = scores_of(encoder, sts_task(pairs))
    left, right = (call.vectors for call in encoder.calls)
    expected = spearman(cosine_similarity_pairs(left, right), pairs.scores)
    assert theirs["spearman"] == pytest.approx(expected, abs=SCORE_TOLERANCE)
    assert theirs["main_score"] == pytest.approx(expected, abs=SCORE_TOLERANCE)


def test_raw_sentences_come_in_and_our_prompt_is_inside(encoder: RecordingEncoder) -> None:
    pairs = PairSubset(
        ["A man is riding a horse", 'He said "no"', "Why?"], ["Rain!", "A dog.", "b"], [1, 2, 3]
    )
    scores_of(encoder, sts_task(pairs))
    assert [call.texts for call in encoder.calls] == [pairs.sentence1, pairs.sentence2]
    prompt = encoder.encoder.prompt
    assert prompt.render("Why?") == 'This sentence : "Why." means in one word:"'
    for call in encoder.calls:
        for text, vector in zip(call.texts, call.vectors, strict=True):
            expected = vector_by_hand(encoder.encoder, prompt.render(text))
            np.testing.assert_allclose(vector, expected, atol=VECTOR_TOLERANCE)
            assert np.abs(vector - vector_by_hand(encoder.encoder, text)).max() > 0.1


def test_classification_equals_a_classifier_of_our_vectors(encoder: RecordingEncoder) -> None:
    from sklearn.linear_model import LogisticRegression

    sentences = list(dict.fromkeys(sample_pairs().sentence1))
    texts = {"train": sentences[:16], "test": sentences[16:76]}
    labels = {"train": [i % 2 for i in range(16)], "test": [len(s) % 2 for s in texts["test"]]}
    train, test = ({"text": texts[k], "label": labels[k]} for k in ("train", "test"))
    # As many training examples per label as MTEB draws, so that every draw is the whole set.
    scores = scores_of(encoder, classification_task(train, test))
    vectors = {split: encoder.encoder.encode(texts[split]) for split in texts}
    classifier = LogisticRegression(max_iter=100).fit(vectors["train"], labels["train"])
    expected = classifier.score(vectors["test"], labels["test"])
    assert 0.2 < expected < 0.8
    assert scores["accuracy"] == pytest.approx(expected, abs=1 / 60)
    assert encoder.texts == {*texts["train"], *texts["test"]}
    assert {call.vectors.dtype for call in encoder.calls} == {np.dtype(np.float32)}


def test_retrieval_ranks_by_the_cosine_of_our_vectors(encoder: RecordingEncoder) -> None:
    from sklearn.metrics import ndcg_score

    sentences = list(dict.fromkeys(sample_pairs().sentence1))
    queries = {f"q{i}": s for i, s in enumerate(sentences[:6])}
    documents = {f"d{i}": (f"Title {i}", s) for i, s in enumerate(sentences[6:36])}
    documents["d0"] = ("", sentences[6])
    names = list(documents)
    random = np.random.default_rng(0)
    relevance = random.integers(0, 2, size=(len(queries), len(documents)))
    relevant = {
        query: {name: int(value) for name, value in zip(names, row, strict=True)}
        for query, row in zip(queries, relevance, strict=True)
    }
    scores = scores_of(encoder, retrieval_task(queries, documents, relevant))
    texts = [f"{title} {text}".strip() for title, text in documents.values()]
    left, right = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (
            encoder.encoder.encode(list(queries.values())),
            encoder.encoder.encode(texts),
        )
    )
    expected = ndcg_score(relevance, left @ right.T, k=10)
    assert scores["ndcg_at_10"] == pytest.approx(expected, abs=1e-4)  # MTEB keeps five decimals
    assert 0.1 < expected < 0.9
    asked = {call.prompt_type: call.texts for call in encoder.calls}
    assert asked == {"query": list(queries.values()), "document": texts}


@pytest.mark.parametrize(
    "name",
    [
        "MockPairClassificationTask",
        "MockRerankingTask",
        "MockInstructionRetrieval",
        "MockRetrievalDialogTask",
        "LegacyMockClusteringFastTask",
        "MockBitextMiningTask",
        "MockSummarizationTask",
        "MockMultilabelClassification",
        "MockRegressionTask",
    ],
)
def test_other_kinds_of_tasks_run(encoder: RecordingEncoder, name: str) -> None:
    reason = "this version of mteb ships no mock tasks"
    mocks = pytest.importorskip("mteb.mocks", reason=reason)
    import mteb

    result = mteb.evaluate(encoder, getattr(mocks, name)(), cache=None, co2_tracker=False)
    assert math.isfinite(result.task_results[0].get_score())
    for call in encoder.calls:
        prompts = [encoder.encoder.prompt.render(text) for text in call.texts]
        expected = [vector_by_hand(encoder.encoder, prompt) for prompt in prompts]
        np.testing.assert_allclose(call.vectors, expected, atol=VECTOR_TOLERANCE)
    assert encoder.texts


def test_an_image_task_is_refused(encoder: MTEBEncoder) -> None:
    mocks = pytest.importorskip("mteb.mocks", reason="this version of mteb ships no mock tasks")
    import mteb

    with pytest.raises(ValueError, match="supports \\['text'\\]"):
        mteb.evaluate(encoder, mocks.MockImageClassificationTask(), cache=None)


@pytest.mark.parametrize("as_type", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_similarities_are_computed_in_float32_at_least(
    encoder: MTEBEncoder, as_type: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, 24, generator=generator).to(as_type) for _ in range(2))
    expected = torch.nn.functional.cosine_similarity(a.double()[:, None], b.double(), dim=-1)
    matrix, pairs = encoder.similarity(a, b), encoder.similarity_pairwise(a, b)
    assert matrix.dtype is (torch.float64 if as_type is torch.float64 else torch.float32)
    assert pairs.dtype is torch.float64
    torch.testing.assert_close(matrix.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(pairs, expected.diagonal(), atol=1e-12, rtol=0)
    # In bfloat16 itself these 50 cosines would have equal ones among them.
    assert len(set(pairs.tolist())) == 50


def test_half_precision_arrays_are_widened(encoder: MTEBEncoder) -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(50, 24)).astype(np.float16) for _ in range(2))
    widened = encoder.similarity(a.astype(np.float32), b.astype(np.float32))
    torch.testing.assert_close(encoder.similarity(a, b), widened, atol=0, rtol=0)


VALUES = st.floats(-4, 4, width=32)
VECTORS = st.tuples(st.integers(1, 6), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=VALUES), arrays(np.float32, shape, elements=VALUES)
    )
)


@given(vectors=VECTORS)
def test_pairs_are_symmetric_and_copies_tie(vectors: tuple[NDArray[Any], NDArray[Any]]) -> None:
    left, right = vectors
    # The method needs nothing of the object.
    pairwise = MTEBEncoder.similarity_pairwise
    found = pairwise(None, left, right)  # type: ignore[arg-type]
    assert torch.equal(found, pairwise(None, right, left))  # type: ignore[arg-type]
    copies = pairwise(None, left, left.copy())  # type: ignore[arg-type]
    squares = (left.astype(np.float64) ** 2).sum(axis=1)
    assert copies.tolist() == [float(square > 0) for square in squares]


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_quantised_vectors_are_refused(encoder: RecordingEncoder, precision: str) -> None:
    import mteb

    task = sts_task(sample_pairs())
    with pytest.raises(ConfigError, match=f"precision='{precision}'"):
        mteb.evaluate(encoder, task, cache=None, encode_kwargs={"precision": precision})


def test_no_texts_give_no_vectors(encoder: MTEBEncoder) -> None:
    metadata = sts_task(sample_pairs()).metadata
    found = encoder.encode([], task_metadata=metadata, hf_split="test", hf_subset="default")
    assert found.shape == (0, 32)


def test_without_mteb_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "mteb" else find_spec(name)
    )
    expected = r"mteb, which is not installed.*embedllm\[mteb\]"
    # Before anything is loaded: neither the model nor the folder exists.
    nowhere = build_tiny_config("opt", name="no/such-model", init="pretrained", architecture={})
    with pytest.raises(ConfigError, match=expected):
        MTEBEncoder.from_config(nowhere, PROMPT, cache_dir=tmp_path)
    with pytest.raises(ConfigError, match=expected):
        MTEBEncoder.from_adapter(tmp_path / "nowhere", cache_dir=tmp_path)


def test_importing_the_module_does_not_import_mteb() -> None:
    code = (
        "import sys, embedllm.evaluation.mteb_adapter; "
        "sys.exit(any(m in sys.modules for m in ('mteb', 'sentence_transformers')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
