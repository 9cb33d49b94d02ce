"""MTEB tasks with data from this machine, and a tiny model that records what MTEB asks of it.

mteb downloads nothing for a task whose data is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from numpy.typing import NDArray
from tiny_models import build_tiny_config

from embedllm.config import PromptConfig
from embedllm.evaluation.metrics import cosine_similarity_pairs
from embedllm.evaluation.mteb_adapter import MTEBEncoder
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.tasks import PairSubset, PairTask, load_task

if TYPE_CHECKING:
    from embedllm.models.encoder import SentenceEncoder

CPU = torch.device("cpu")
PROMPT = PromptConfig(template='This sentence : "{sentence}" means in one word:"')


def sts_task(subset: PairSubset, name: str = "STS12") -> Any:
    """Returns MTEB's task `name` with other pairs."""
    import mteb
    from datasets import Dataset, DatasetDict

    columns = {
        "sentence1": subset.sentence1,
        "sentence2": subset.sentence2,
        "score": subset.scores,
    }
    task = mteb.get_task(name)
    task.dataset = DatasetDict(test=Dataset.from_dict(columns))
    task.data_loaded = True
    return task


def classification_task(
    train: Mapping[str, Sequence[Any]], test: Mapping[str, Sequence[Any]]
) -> Any:
    """Returns a classification task; `train` and `test` have the columns `text` and `label`."""
    import mteb
    from datasets import Dataset, DatasetDict

    task = mteb.get_task("Banking77Classification")
    splits = {"train": train, "test": test}
    task.dataset = DatasetDict({k: Dataset.from_dict(dict(v)) for k, v in splits.items()})
    task.data_loaded = True
    return task


def retrieval_task(
    queries: Mapping[str, str],
    documents: Mapping[str, tuple[str, str]],
    relevant: Mapping[str, Mapping[str, int]],
) -> Any:
    """Returns a retrieval task; documents are title and text by id."""
    import mteb
    from datasets import Dataset

    rows = [{"id": k, "title": title, "text": text} for k, (title, text) in documents.items()]
    task = mteb.get_task("NFCorpus")
    split = {
        "queries": Dataset.from_list([{"id": k, "text": text} for k, text in queries.items()]),
        "corpus": Dataset.from_list(rows),
        "relevant_docs": {k: dict(v) for k, v in relevant.items()},
        "top_ranked": None,
    }
    task.dataset = {"default": {"test": split}}
    task.data_loaded = True
    return task


def scores_of(model: Any, task: Any) -> dict[str, Any]:
    """Returns all of MTEB's scores of a model on a task with one subset, without a cache."""
    import mteb

    result = mteb.evaluate(
        model,
        task,
        cache=None,
        co2_tracker=False,
        encode_kwargs={"batch_size": 1024, "show_progress_bar": False},
        show_progress_bar=False,
    )
    [scores] = result.task_results[0].scores["test"]
    return dict(scores)


class Call(NamedTuple):
    texts: list[str]
    vectors: NDArray[Any]
    prompt_type: str | None


class RecordingEncoder(MTEBEncoder):
    """Keeps what MTEB asked for and what it got."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[Call] = []

    def encode(self, inputs: Iterable[Mapping[str, Any]], **kwargs: Any) -> NDArray[Any]:
        batches = list(inputs)
        vectors = super().encode(batches, **kwargs)
        texts = [text for batch in batches for text in batch["text"]]
        kind = kwargs.get("prompt_type")
        self.calls.append(Call(texts, vectors, getattr(kind, "value", kind)))
        return vectors

    @property
    def texts(self) -> set[str]:
        return {text for call in self.calls for text in call.texts}


def recording_encoder(
    tmp_path: Path, prompt: PromptConfig = PROMPT, **options: Any
) -> RecordingEncoder:
    model = build_tiny_config("opt", **options)
    encoder = RecordingEncoder.from_config(model, prompt, cache_dir=tmp_path, device=CPU)
    assert isinstance(encoder, RecordingEncoder)
    return encoder


def sample_pairs() -> PairSubset:
    """Returns the 200 sample pairs, some of them twice, and 20 pairs of a sentence with itself."""
    [sample] = load_task("sample-test", data_dir=None).subsets.values()
    copies = sample.sentence1[:20]
    return PairSubset(
        sample.sentence1 + copies + sample.sentence1[:20],
        sample.sentence2 + copies + sample.sentence2[:20],
        sample.scores + [5.0] * 20 + sample.scores[:20],
    )


def well_separated_pairs(encoder: SentenceEncoder) -> PairSubset:
    """Returns the sample pairs whose cosines are at least 1e-5 apart.

    MTEB encodes the two sides of the pairs in two calls and we encode all sentences in one, so
    float32 vectors differ in their last digits, cosines by about 1e-7; here that swaps no ranks.
    """
    pairs = sample_pairs()
    left, right = encoder.encode(pairs.sentence1), encoder.encode(pairs.sentence2)
    kept: list[int] = []
    last = -1.0
    cosines = cosine_similarity_pairs(left, right)
    for row in cosines.argsort():
        if cosines[row] - last > 1e-5:
            kept.append(int(row))
            last = cosines[row]
    assert len(kept) > 100
    columns = (pairs.sentence1, pairs.sentence2)
    return PairSubset(
        *([column[row] for row in kept] for column in columns),
        scores=[pairs.scores[row] for row in kept],
    )


def our_score(encoder: SentenceEncoder, pairs: PairSubset) -> float:
    """Returns the unrounded Spearman."""
    return evaluate_sts(encoder, [PairTask("t", {"s": pairs})]).tasks[0].subsets["s"] / 100
