"""Our STS scores against sentence-transformers' and MTEB's on the same vectors.

Two kinds of real-data vectors, because the libraries break ties that we keep. They divide vectors
by their lengths and then take the dot product, so the cosine of a sentence with its copy is 1
give or take the last digit, in any float type, and copies (79 of 3,108 pairs in STS12) are ranked
by that digit. So equality to 1e-6 is claimed, and tested,

- for all pairs on vectors of +1 and -1 in 256 dimensions: their length is 16, the quotients are
  +-1/16 and every sum of products is exact in float32, so all formulas give the same cosine;
- for pairs of two different sentences on vectors of a language model, in float64, where
  formulas differ by about 1e-16 and two cosines are hardly ever that close;
- for all pairs on these vectors by MTEB's `cosine_spearman`, whose formula, 1 - |a - b|^2 / 2 on
  unit vectors, gives copies exactly 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from local_mteb_tasks import scores_of, sts_task
from numpy.typing import NDArray
from scipy import stats
from tiny_models import build_tiny_config

from embedllm.config import PromptConfig
from embedllm.evaluation.metrics import cosine_similarity_pairs
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.tasks import PAPER_TASKS, PairSubset, PairTask, load_tasks
from embedllm.models.loading import load_encoder

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-6
# `TaskScore.score` is 100 x Spearman, rounded to two decimals.
ROUNDING = 0.5e-4 + TOLERANCE


class GivenVectors:
    """Hands out vectors by sentence, as our encoder, sentence-transformers' model and MTEB's.

    Its similarities for MTEB are mteb's own, so that nothing of ours is in MTEB's scores.
    """

    similarity_fn_name = "cosine"
    truncate_dim = None

    def __init__(self, vectors: Mapping[str, NDArray[Any]]) -> None:
        self.vectors = vectors

    @property
    def model_card_data(self) -> GivenVectors:
        return self

    def set_evaluation_metrics(self, *args: Any, **kwargs: Any) -> None:
        """sentence-transformers reports its scores here."""

    @property
    def mteb_model_meta(self) -> Any:
        from mteb.models import ModelMeta

        return ModelMeta.create_empty()

    def encode(self, inputs: Iterable[Any], **kwargs: Any) -> Any:
        if "task_metadata" in kwargs:
            texts = [text for batch in inputs for text in batch["text"]]
            # mteb turns arrays into float32 but leaves tensors as they are.
            return torch.from_numpy(self.look_up(texts))
        return self.look_up(list(inputs))

    def look_up(self, sentences: Sequence[str]) -> NDArray[Any]:
        return np.stack([self.vectors[sentence] for sentence in sentences])

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError

    def similarity_pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(a, b)


@pytest.fixture(autouse=True)
def _libraries() -> None:
    for library in ("mteb", "sentence_transformers"):
        pytest.importorskip(library, reason=f"{library} is not installed (embedllm[dev])")


def sentence_transformers_score(model: GivenVectors, subset: PairSubset) -> float:
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    evaluator = EmbeddingSimilarityEvaluator(
        subset.sentence1,
        subset.sentence2,
        subset.scores,
        main_similarity="cosine",
        write_csv=False,
    )
    return float(evaluator(model)["spearman_cosine"])  # type: ignore[arg-type]


def our_score(model: GivenVectors, subset: PairSubset) -> float:
    """Returns the unrounded Spearman of one subset."""
    result = evaluate_sts(model, [PairTask("t", {"s": subset})])
    return result.tasks[0].subsets["s"] / 100


def concatenate(subsets: Iterable[PairSubset]) -> PairSubset:
    parts = list(subsets)
    return PairSubset(
        [s for part in parts for s in part.sentence1],
        [s for part in parts for s in part.sentence2],
        [s for part in parts for s in part.scores],
    )


def without_copies(subset: PairSubset) -> PairSubset:
    pairs = zip(subset.sentence1, subset.sentence2, subset.scores, strict=True)
    left, right, scores = zip(*(pair for pair in pairs if pair[0] != pair[1]), strict=True)
    return PairSubset(list(left), list(right), list(scores))


def similarities(model: GivenVectors, subset: PairSubset) -> NDArray[np.float64]:
    left, right = model.look_up(subset.sentence1), model.look_up(subset.sentence2)
    return cosine_similarity_pairs(left, right)


def random_subset(
    dtype: type[np.floating[Any]], *, num_pairs: int = 100, seed: int = 0
) -> tuple[GivenVectors, PairSubset]:
    """Returns pairs that are similar by degrees, with gold scores that say so, roughly."""
    random = np.random.default_rng(seed)
    left = random.normal(size=(num_pairs, 24))
    mix = random.uniform(0, 0.8, size=(num_pairs, 1))
    right = mix * left + (1 - mix) * random.normal(size=left.shape)
    gold = (5 * mix[:, 0] + random.normal(size=num_pairs)).clip(0, 5)
    vectors = {f"a{i}": v for i, v in enumerate(left.astype(dtype))}
    vectors |= {f"b{i}": v for i, v in enumerate(right.astype(dtype))}
    names = [[f"{side}{i}" for i in range(num_pairs)] for side in "ab"]
    return GivenVectors(vectors), PairSubset(names[0], names[1], gold.tolist())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_vectors(dtype: type[np.floating[Any]], seed: int) -> None:
    model, subset = random_subset(dtype, seed=seed)
    # Rounding in float32 moves a cosine by about 1e-7. No two are so close, so all have one
    # ranking; a single swap among n pairs would move Spearman by up to 12 / n^2, here 1e-3.
    assert np.diff(np.sort(similarities(model, subset))).min() > 1e-6
    ours = our_score(model, subset)
    mteb = scores_of(model, sts_task(subset))
    assert sentence_transformers_score(model, subset) == pytest.approx(ours, abs=TOLERANCE)
    assert mteb["spearman"] == pytest.approx(ours, abs=TOLERANCE)
    assert 0.3 < ours < 0.95


def test_ties_in_similarities_and_gold_scores() -> None:
    # 16 dimensions of +-1 have length 4: all arithmetic is exact, see the module docstring.
    random = np.random.default_rng(0)
    vectors = {f"s{i}": v for i, v in enumerate(random.choice([-1.0, 1.0], size=(60, 16)))}
    names = list(vectors)
    left, right = random.choice(names, 500).tolist(), random.choice(names, 500).tolist()
    left += names[:30]
    right += names[:30]
    gold = [float(score) for score in random.integers(0, 6, size=500)] + [5.0] * 30
    model, subset = GivenVectors(vectors), PairSubset(left, right, gold)
    assert len(set(similarities(model, subset).tolist())) < 16
    ours = our_score(model, subset)
    mteb = scores_of(model, sts_task(subset))
    assert sentence_transformers_score(model, subset) == pytest.approx(ours, abs=TOLERANCE)
    assert mteb["spearman"] == pytest.approx(ours, abs=TOLERANCE)
    assert mteb["cosine_spearman"] == pytest.approx(ours, abs=TOLERANCE)
    # Not vacuous: ties ranked in file order instead of sharing a rank give another score.
    broken = np.argsort(np.argsort(similarities(model, subset), kind="stable"), kind="stable")
    assert abs(stats.spearmanr(broken, gold).statistic - ours) > 100 * TOLERANCE


@pytest.fixture
def real_tasks(data_dir: Path) -> list[PairTask]:
    return load_tasks(PAPER_TASKS, data_dir=data_dir)


def sentences_of(tasks: Iterable[PairTask]) -> list[str]:
    columns = (
        column
        for task in tasks
        for subset in task.subsets.values()
        for column in (subset.sentence1, subset.sentence2)
    )
    return list(dict.fromkeys(sentence for column in columns for sentence in column))


def parts_of(task: PairTask) -> Iterator[tuple[str, PairSubset]]:
    """Yields every subset, and all of them as one where there are several."""
    yield from task.subsets.items()
    if len(task.subsets) > 1:
        yield "all", concatenate(task.subsets.values())


def sign_vectors(sentences: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Returns the signs of summed random vectors of a sentence's words, [256]."""
    table = np.random.default_rng(0).normal(size=(4096, 256))
    # Python's own hash of strings changes from process to process.
    rows = (
        [sum(ord(c) * 31**i for i, c in enumerate(word)) % 4096 for word in sentence.split()]
        for sentence in sentences
    )
    signs = (np.where(table[row].sum(axis=0) < 0, -1, 1) for row in rows)
    return {s: v.astype(np.float32) for s, v in zip(sentences, signs, strict=True)}


def test_all_pairs_of_the_seven_tasks_on_exact_vectors(real_tasks: list[PairTask]) -> None:
    model = GivenVectors(sign_vectors(sentences_of(real_tasks)))
    result = evaluate_sts(model, real_tasks)
    num_parts = 0
    for task, found in zip(real_tasks, result.tasks, strict=True):
        for name, subset in parts_of(task):
            ours = our_score(model, subset)
            others = scores_of(model, sts_task(subset))
            others["theirs"] = sentence_transformers_score(model, subset)
            for metric in ("theirs", "spearman", "cosine_spearman"):
                where = (task.name, name, metric)
                assert others[metric] == pytest.approx(ours, abs=TOLERANCE), where
            if name == "all":
                assert found.score / 100 == pytest.approx(others["theirs"], abs=ROUNDING)
            else:
                assert found.subsets[name] / 100 == pytest.approx(ours, abs=TOLERANCE)
            assert 0.02 < ours < 1.0
            num_parts += 1
    assert num_parts == 5 + 3 + 6 + 5 + 5 + 1 + 1 + 5


def test_the_seven_tasks_on_vectors_of_a_language_model(
    real_tasks: list[PairTask], tmp_path: Path
) -> None:
    encoder = load_encoder(
        build_tiny_config("opt"),
        PromptConfig(template='This sentence : "{sentence}" means in one word:"'),
        tmp_path,
        device=torch.device("cpu"),
    )
    sentences = sentences_of(real_tasks)
    vectors = encoder.encode(sentences).astype(np.float64)
    model = GivenVectors(dict(zip(sentences, vectors, strict=True)))
    num_copies = 0
    for task in real_tasks:
        for name, subset in parts_of(task):
            where = (task.name, name)
            ours = our_score(model, subset)
            mteb = scores_of(model, sts_task(subset))
            assert mteb["cosine_spearman"] == pytest.approx(ours, abs=TOLERANCE), where
            different = without_copies(subset)
            num_copies += len(subset) - len(different)
            ours = our_score(model, different)
            if len(different) < len(subset):
                mteb = scores_of(model, sts_task(different))
            theirs = sentence_transformers_score(model, different)
            assert mteb["spearman"] == pytest.approx(ours, abs=TOLERANCE), where
            assert theirs == pytest.approx(ours, abs=TOLERANCE), where
    assert num_copies > 100
