from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedllm.config import EvaluationConfig, ModelConfig, ProbeConfig, PromptConfig
from embedllm.errors import ConfigError, ModelError
from embedllm.evaluation.probes.protocol import ProbeData, ProbeScore, pair_features
from embedllm.evaluation.run import Origin, load_configured_suite, score_and_record
from embedllm.evaluation.scores import EvaluationResult
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.suite import Task, evaluate_suite, load_suite
from embedllm.evaluation.tasks import PairSubset, PairTask
from embedllm.evaluation.transfer import build_probe, build_probe_data, score_transfer_task
from embedllm.evaluation.transfer_tasks import TransferSplit, TransferTask
from embedllm.invocation import Invocation
from embedllm.results import append_result, check_record, read_results

PROBE = ProbeConfig(num_folds=2)


class WordEncoder:
    """Sums a vector per word; `good` and `bad` have their own direction."""

    dtype = "float32"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(
        self, sentences: Sequence[str], *, progress: str | None = None
    ) -> NDArray[np.float32]:
        self.calls.append(list(sentences))
        return np.stack([self._embed(sentence) for sentence in sentences])

    def _embed(self, sentence: str) -> NDArray[np.float32]:
        vector = np.zeros(6, dtype=np.float32)
        for word in sentence.split():
            digest = hashlib.sha256(word.encode()).digest()
            vector[2:] += np.frombuffer(digest[:4], dtype=np.uint8) / 255
            vector[0] += (word == "good") - (word == "bad")
            vector[1] += 1
        return vector


class NotingProbe:
    """Notes what it is given."""

    name = "noting"

    def __init__(self) -> None:
        self.data: ProbeData | None = None
        self.seed = -1

    def score(self, data: ProbeData, *, seed: int) -> ProbeScore:
        self.data, self.seed = data, seed
        return ProbeScore(data.name, self.name, 87.5, 80.0, (0.1, 1.0), (1.0,), 4, 2, 0.5)


def make_sentiment(name: str = "MR", *, size: int = 40) -> TransferTask:
    words = ["film", "plot", "actor", "end", "the"]
    sentences = [
        " ".join(["good" if i % 2 else "bad", *words[: 1 + i % 5], f"w{i % 7}"])
        for i in range(size)
    ]
    split = TransferSplit(sentences, None, [i % 2 for i in range(size)])
    return TransferTask(name, "cross_validation", 2, {"all": split})


def make_pairs() -> TransferTask:
    train = TransferSplit(["b b b", "a", "c c"], ["x", "y y", "z"], [0, 1, 1])
    test = TransferSplit(["d d", "e"], ["u", "v"], [1, 0])
    return TransferTask("MRPC", "train_test", 2, {"train": train, "test": test})


def make_sts() -> PairTask:
    left = ["good film", "bad film", "good plot end", "the actor"]
    right = ["good film end", "good film", "bad", "the actor"]
    return PairTask("STS12", {"s": PairSubset(left, right, [4.0, 1.0, 0.5, 5.0])})


def evaluate(encoder: WordEncoder, tasks: Sequence[Task]) -> EvaluationResult:
    return evaluate_suite(encoder, tasks, EvaluationConfig(), probe=PROBE, seed=1111)


def test_rows_are_in_the_order_of_senteval() -> None:
    split = TransferSplit(["one two three", "", "two words", "one"], None, [1, 0, 1, 1])
    task = TransferTask("CR", "cross_validation", 2, {"all": split})
    encoder = WordEncoder()
    data = build_probe_data(task, encoder)
    # The sentence without words goes to the encoder as it is.
    assert encoder.calls == [["", "one", "two words", "one two three"]]
    assert data.labels["all"].tolist() == [0, 1, 1, 1]
    assert data.features["all"][:, 1].tolist() == [0, 1, 2, 3]


def test_pairs_become_distances_and_products_in_that_order() -> None:
    data = build_probe_data(make_pairs(), WordEncoder())
    encode = WordEncoder().encode
    expected = pair_features(encode(["a", "c c", "b b b"]), encode(["y y", "z", "x"]))
    assert data.kind == "train_test"
    assert data.features["train"].tolist() == expected.tolist()
    assert data.labels["train"].tolist() == [1, 1, 0]
    assert data.labels["test"].tolist() == [0, 1]


def test_the_probe_gets_the_seed_as_it_is() -> None:
    probe = NotingProbe()
    score = score_transfer_task(make_pairs(), WordEncoder(), probe=probe, num_folds=3, seed=7)
    assert probe.seed == 7
    assert (score.score, score.metric, score.probe, score.protocol) == (
        87.5,
        "accuracy",
        "noting",
        None,
    )
    assert (score.num_examples, score.kind) == (5, "transfer")
    assert score.details == {
        "dev_accuracy": 80.0,
        "penalty_grid": [0.1, 1.0],
        "penalties": [1.0],
        "num_train": 4,
        "num_test": 2,
        "num_folds": 3,
    }


@pytest.mark.parametrize("name", ["logistic", "senteval"])
def test_the_config_chooses_the_probe(name: str) -> None:
    probe = build_probe(ProbeConfig(name=name, num_folds=3))
    assert (probe.name, getattr(probe, "num_folds", None)) == (name, 3)


def test_a_suite_encodes_once_and_scores_as_each_task_alone() -> None:
    encoder = WordEncoder()
    result = evaluate(encoder, [make_sentiment(), make_sts()])
    [call] = encoder.calls
    assert len(call) == len(set(call)) == result.num_distinct < result.num_sentences == 48
    assert [task.name for task in result.tasks] == ["MR", "STS12"]
    sentiment, sts = result.tasks
    assert sts == evaluate_sts(WordEncoder(), [make_sts()]).tasks[0]
    alone = score_transfer_task(
        make_sentiment(), WordEncoder(), probe=build_probe(PROBE), num_folds=2, seed=1111
    )
    assert sentiment == alone
    # The class is a direction of the vectors.
    assert sentiment.score == 100.0
    assert result.averages == {"sts": sts.score, "transfer": 100.0}
    assert result.timing["tasks"].keys() == {"MR"}
    assert EvaluationResult.from_dict(result.to_dict()) == result


def test_transfer_tasks_alone_have_no_sts_average() -> None:
    result = evaluate(WordEncoder(), [make_sentiment("MR"), make_sentiment("CR")])
    assert result.averages == {"sts": None, "transfer": 100.0}
    assert result.average == 100.0


@pytest.mark.parametrize("tasks", [[], [make_sts(), make_sts()]])
def test_no_task_or_one_twice_is_refused(tasks: list[Task]) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.tasks"):
        evaluate(WordEncoder(), tasks)


def test_vectors_with_nan_are_named() -> None:
    class Broken(WordEncoder):
        def _embed(self, sentence: str) -> NDArray[np.float32]:
            return np.full(3, np.nan, dtype=np.float32)

    with pytest.raises(ModelError, match="MR, split all"):
        evaluate(Broken(), [make_sentiment()])


def test_unknown_names_list_both_kinds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'STS99'") as caught:
        load_suite(["MR", "STS99"], data_dir=tmp_path, layout="auto", verify="strict")
    assert "STSBenchmark" in str(caught.value)
    assert "MRPC" in str(caught.value)


def test_both_kinds_load_from_real_data(data_dir: Path) -> None:
    config = EvaluationConfig(tasks=["TREC", "STSBenchmark"], data_dir=str(data_dir))
    trec, stsb = load_configured_suite(config)
    assert isinstance(trec, TransferTask)
    assert isinstance(stsb, PairTask)
    assert (trec.num_examples, stsb.num_pairs) == (5952, 1379)


def test_the_record_fits_the_store(tmp_path: Path) -> None:
    origin = Origin.of(
        Invocation(["model=tiny"], tmp_path, choices={"model": "tiny"}),
        script="evaluate.py",
        run_name="first",
    )
    result, record = score_and_record(
        WordEncoder(),
        [make_sts(), make_sentiment()],
        EvaluationConfig(verify="counts"),
        label="encoding",
        origin=origin,
        probe=PROBE,
        seed=5,
        model=ModelConfig(name="tiny-opt"),
        prompt=PromptConfig(template="{sentence}"),
        adapter=None,
    )
    check_record(record)
    path = append_result(tmp_path / "store", record)
    assert append_result(tmp_path / "store", record) == path
    [stored] = read_results(tmp_path / "store", strict=True)
    assert stored.record == record
    assert (stored.model_name, stored.average("transfer")) == ("tiny", 100.0)
    assert record["command"] == ["evaluate.py", "model=tiny"]
    assert record["data"]["MR"]["all"]["num_per_class"] == [20, 20]
    assert all(task["details"]["verify"] == "counts" for task in record["tasks"].values())
    assert EvaluationResult.from_dict(record).averages == result.averages


def test_a_model_that_is_named_is_no_choice_of_a_file(tmp_path: Path) -> None:
    overrides = ["model=huggingface", "model.name=gpt2"]
    invocation = Invocation(overrides, tmp_path, choices={"model": "huggingface"})
    assert Origin.of(invocation, script="train.py", run_name="a").model_choice is None
