"""The sentence-transformers folder: any text, the usual arguments, and what others do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import TEXTS, export, our_encoder, save_tiny_adapter
from tiny_models import build_tiny_config

from embedllm.config import DemonstrationConfig, PromptConfig
from embedllm.export.sentence_transformers_folder import _reads_alike, texts_beyond
from embedllm.export.write import relative_distance

if TYPE_CHECKING:
    from embedllm import SentenceEncoder

sentence_transformers = pytest.importorskip("sentence_transformers")

TOLERANCE = 1e-5
PROMPT = PromptConfig(
    template='This sentence : "{sentence}" means in one word:"',
    demonstrations=[DemonstrationConfig(sentence='A "man"\n\U0001f600 {{is}}.', word="Smoking")],
)
PLACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u3000\u200b"
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(
            [*PLACES, *".?!\"'", "</s>", "<pad>", "word ", "a", "{{ s }}", "\U0001f600"]
        ),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module", params=["paper", "none"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SentenceEncoder, Any, Path]:
    """Ours, theirs, and their folder."""
    folder = tmp_path_factory.mktemp(request.param)
    prompt = PromptConfig(
        PROMPT.template, demonstrations=PROMPT.demonstrations, clean_up=request.param
    )
    adapter = save_tiny_adapter(folder / "adapter", build_tiny_config("opt"), prompt=prompt)
    place = export(adapter, folder / "st")
    model = sentence_transformers.SentenceTransformer(str(place), device="cpu")
    return our_encoder(adapter), model, place


@settings(max_examples=300)
@given(text=TEXT)
def test_tokens_are_ours(pair: tuple[SentenceEncoder, Any, Path], text: str) -> None:
    ours, theirs, _ = pair
    found = theirs.preprocess([text])["input_ids"][0].tolist()
    assert found == ours.token_ids([text])[0]


@settings(max_examples=60)
@given(text=TEXT, times=st.integers(1, 120))
def test_tokens_of_long_texts_are_ours(
    pair: tuple[SentenceEncoder, Any, Path], text: str, times: int
) -> None:
    ours, theirs, _ = pair
    for long in (text * times, "a " * times + text):
        found = theirs.preprocess([long])["input_ids"][0].tolist()
        assert found == ours.token_ids([long])[0]


def test_the_check_of_tokens_sees_another_cut(tmp_path: Path) -> None:
    adapter = save_tiny_adapter(tmp_path / "adapter", "opt")
    folder = export(adapter, tmp_path / "st")
    ours = our_encoder(adapter)
    for text in texts_beyond(ours.max_length):
        assert len(ours.prompt.render(text).split()) > 128
        assert len(ours.token_ids([text])[0]) == 128
    assert _reads_alike(folder, ours, TEXTS)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "model_max_length": 127}))
    assert not _reads_alike(folder, ours, [text for text in TEXTS if len(text) < 40])


def test_the_end_of_the_template_survives_the_cut(
    pair: tuple[SentenceEncoder, Any, Path],
) -> None:
    _, theirs, _ = pair
    ids = theirs.preprocess(["word " * 500])["input_ids"][0]
    assert len(ids) == 128
    assert theirs.tokenizer.decode(ids).endswith('" means in one word:"')
    found = theirs.encode("word " * 500)
    other = theirs.encode("another " * 500)
    assert relative_distance(found[None], other[None]) > 0.01


def test_the_usual_arguments(pair: tuple[SentenceEncoder, Any, Path]) -> None:
    ours, theirs, _ = pair
    expected = ours.encode(TEXTS)
    tensor = theirs.encode(TEXTS, convert_to_tensor=True, batch_size=2)
    assert isinstance(tensor, torch.Tensor)
    assert relative_distance(tensor.numpy(), expected) < TOLERANCE
    unit = theirs.encode(TEXTS, normalize_embeddings=True)
    assert relative_distance(unit, ours.encode(TEXTS, normalize=True)) < TOLERANCE
    short = theirs.encode(TEXTS, truncate_dim=8)
    np.testing.assert_allclose(short, expected[:, :8], atol=1e-5 * np.linalg.norm(expected[0]))
    one = theirs.encode(TEXTS[0])
    assert relative_distance(one[None], expected[:1]) < TOLERANCE
    assert theirs.get_embedding_dimension() == 32
    assert theirs.max_seq_length == 128
    found = theirs.similarity(tensor, tensor).numpy()
    np.testing.assert_allclose(found, ours.similarity(expected), atol=1e-5)


def test_their_prompts_go_in_front_of_the_sentence(
    pair: tuple[SentenceEncoder, Any, Path],
) -> None:
    ours, theirs, _ = pair
    expected = ours.encode([f"Question: {text}" for text in TEXTS])
    assert relative_distance(theirs.encode(TEXTS, prompt="Question: "), expected) < TOLERANCE
    theirs.prompts["question"] = "Question: "
    found = theirs.encode(TEXTS, prompt_name="question")
    del theirs.prompts["question"]
    assert relative_distance(found, expected) < TOLERANCE
    for encode in (theirs.encode_query, theirs.encode_document):
        assert relative_distance(encode(TEXTS), ours.encode(TEXTS)) < TOLERANCE


def test_left_padding_changes_nothing(pair: tuple[SentenceEncoder, Any, Path]) -> None:
    ours, _, place = pair
    model = sentence_transformers.SentenceTransformer(
        str(place), device="cpu", processor_kwargs={"padding_side": "left"}
    )
    features = model.preprocess(TEXTS[:2])
    assert features["attention_mask"][0, 0] == 0
    assert relative_distance(model.encode(TEXTS), ours.encode(TEXTS)) < TOLERANCE


def test_it_survives_saving_and_loading_there(
    pair: tuple[SentenceEncoder, Any, Path], tmp_path: Path
) -> None:
    ours, theirs, _ = pair
    theirs.save_pretrained(str(tmp_path / "again"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert relative_distance(again.encode(TEXTS), ours.encode(TEXTS)) < TOLERANCE


def test_mteb_scores_it_as_it_scores_us(
    pair: tuple[SentenceEncoder, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluation"))
    mteb = pytest.importorskip("mteb")
    mocks = pytest.importorskip("mteb.mocks")
    from local_mteb_tasks import our_score, scores_of, sts_task, well_separated_pairs

    ours, theirs, _ = pair
    pairs = well_separated_pairs(ours)
    scores = scores_of(theirs, sts_task(pairs))
    assert scores["spearman"] == pytest.approx(our_score(ours, pairs), abs=1e-4)
    assert abs(scores["spearman"]) > 0.01
    for name in ("MockRetrievalTask", "MockClassificationTask", "MockClusteringTask"):
        result = mteb.evaluate(theirs, getattr(mocks, name)(), cache=None, co2_tracker=False)
        assert np.isfinite(result.task_results[0].get_score())


def test_langchain_loads_it(pair: tuple[SentenceEncoder, Any, Path]) -> None:
    langchain = pytest.importorskip("langchain_huggingface")
    ours, _, place = pair
    # LangChain itself takes line ends out of texts.
    texts = [text.replace("\n", " ") for text in TEXTS]
    embeddings = langchain.HuggingFaceEmbeddings(
        model_name=str(place), model_kwargs={"device": "cpu"}
    )
    found = np.array(embeddings.embed_documents(TEXTS))
    assert relative_distance(found, ours.encode(texts)) < TOLERANCE
    query = np.array([embeddings.embed_query(TEXTS[1])])
    assert relative_distance(query, ours.encode(texts[1:2])) < TOLERANCE


def test_llama_index_loads_it(pair: tuple[SentenceEncoder, Any, Path]) -> None:
    module = pytest.importorskip("llama_index.embeddings.huggingface")
    ours, _, place = pair
    embedding = module.HuggingFaceEmbedding(str(place), device="cpu", normalize=False)
    found = np.array(embedding.get_text_embedding_batch(TEXTS))
    # LlamaIndex itself strips texts.
    expected = ours.encode([text.strip() for text in TEXTS])
    assert relative_distance(found, expected) < TOLERANCE
    query = np.array([embedding.get_query_embedding(TEXTS[1])])
    assert relative_distance(query, expected[1:2]) < TOLERANCE
