"""Which results share a row, which score counts, what a row is called."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import (
    DEV,
    MODEL,
    PROMPT,
    demonstration,
    seven,
    store_method,
    store_result,
    store_transfer,
)
from stored_results import make_task
from tiny_runs import compose_evaluate

from embedllm.entry import CONF_DIR
from embedllm.evaluation.tasks import PAPER_TASKS
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS
from embedllm.report.methods import METHODS
from embedllm.report.rows import Row, build_rows
from embedllm.report.settings import distinguish
from embedllm.results import StoredResult

SHA = "0" * 64


def _rows(*results: StoredResult) -> Sequence[Row]:
    return build_rows(results).rows


def _names(*results: StoredResult) -> list[str]:
    return [row.name.text for row in _rows(*results)]


# --- One row ------------------------------------------------------------------------------------


def test_results_of_one_setting_share_a_row_and_the_newest_score_wins() -> None:
    old = store_result({DEV: 60.0, "STS12": 50.0}, label="prompteol")
    new = store_result({DEV: 61.0, "STS13": 70.0}, seed=7)
    [row] = _rows(old, new)
    assert {task: score.value for task, score in row.scores.items()} == {
        DEV: 61.0,
        "STS12": 50.0,
        "STS13": 70.0,
    }
    assert row.runs == (1, 2)
    assert row.name.text == "PromptEOL"
    assert row.scores[DEV].deviation is None


def test_a_result_without_a_used_score_is_named_and_gets_no_number() -> None:
    results = [store_result({DEV: score}) for score in (60.0, 61.0, 62.0)]
    report = build_rows(results)
    assert [run.result for run in report.runs] == results[2:]
    assert [run.number for run in report.runs] == [1]
    assert list(report.unused) == results[:2]


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"prompt": {**PROMPT, "template": "{sentence}"}},
        {"prompt": {**PROMPT, "clean_up": "none"}},
        {"prompt": {**PROMPT, "evaluation_max_sentence_tokens": 32}},
        {"prompt": demonstration("Sports")},
        {"model": {**MODEL, "layer": 5}},
        {"model": {**MODEL, "pooling": "mean"}},
        {"model": {**MODEL, "token_prepending_layers": 3}},
        {"model": {**MODEL, "normalize": True}},
        {"model": {**MODEL, "revision": "abc"}},
        {"model": {**MODEL, "name": "facebook/opt-350m"}},
        {"model": {**MODEL, "gguf_package": "some_package"}},
        {"model": {**MODEL, "quantization": "nf4"}},
        {"adapter": "outputs/a/adapter", "adapter_sha256": SHA},
    ],
)
def test_what_decides_a_vector_decides_the_row(changes: dict[str, Any]) -> None:
    rows = _rows(store_result({DEV: 60.0}), store_result({DEV: 61.0}, **changes))
    assert len(rows) == 2
    assert len({(row.base, row.name.text) for row in rows}) == 2
    assert sorted(row.value(DEV) or 0 for row in rows) == [60.0, 61.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 7},
        {"run_name": "second", "label": "prompteol", "model_choice": "opt-125m"},
        {"model": {**MODEL, "dtype": "float32"}},
        {"model": {**MODEL, "architecture": {"model_type": "opt"}, "normalize": False}},
        {"prompt": {**PROMPT, "max_sentence_tokens": 16, "more_templates": []}},
        {"hardware": {"machine": "other"}, "versions": {"torch": "9"}},
    ],
)
def test_what_decides_no_vector_decides_no_row(changes: dict[str, Any]) -> None:
    [row] = _rows(store_result({DEV: 60.0}), store_result({DEV: 61.0}, **changes))
    assert row.value(DEV) == 61.0


def test_the_source_of_a_demonstration_decides_no_row() -> None:
    prompt = demonstration("Sports")
    noted = {**prompt, "demonstrations": [{**prompt["demonstrations"][0], "source": "sts-b"}]}
    assert len(_rows(store_result(prompt=prompt), store_result(prompt=noted))) == 1


def test_adapters_are_told_apart_by_their_checksum() -> None:
    first, again, other = [
        store_result({DEV: score}, adapter=path, adapter_sha256=digit * 64)
        for score, path, digit in ((80.0, "a", "1"), (81.0, "moved/a", "1"), (82.0, "a", "2"))
    ]
    rows = _rows(first, again, other)
    assert sorted(row.value(DEV) or 0 for row in rows) == [81.0, 82.0]
    assert all(row.is_tuned for row in rows)


def test_random_weights_are_told_apart_by_their_seed_and_architecture() -> None:
    model = {**MODEL, "init": "random", "architecture": {"model_type": "opt"}}
    others = [{**model, "init_seed": 3}, {**model, "architecture": {"model_type": "llama"}}]
    assert len(_rows(*[store_result(model=m) for m in (model, *others)])) == 3


def test_protocols_and_classifiers_have_their_own_rows() -> None:
    tasks = {DEV: make_task(50.0, protocol="mteb")}
    rows = _rows(
        store_result({DEV: 60.0}),
        store_result(tasks=tasks),
        store_transfer({"MR": 80.0}),
        store_transfer({"MR": 81.0}, probe="senteval"),
        store_transfer({"MR": 82.0}, folds=5),
    )
    assert [(row.kind, row.variant) for row in rows] == [
        ("sts", "mteb"),
        ("sts", "paper"),
        ("transfer", "logistic, 10 folds"),
        ("transfer", "logistic, 5 folds"),
        ("transfer", "senteval, 10 folds"),
    ]
    assert [next(iter(row.scores.values())).value for row in rows] == [50, 60, 80, 82, 81]


def test_scores_on_other_texts_are_marked_and_replace_no_verified_ones() -> None:
    counts = {"subsets": {}, "verify": "counts"}
    both = {DEV: make_task(99.0, details=counts), "STS12": make_task(98.0, details=counts)}
    [row] = _rows(store_result({DEV: 60.0}), store_result(tasks=both))
    assert (row.scores[DEV].value, row.scores[DEV].is_verified) == (60.0, True)
    assert (row.scores["STS12"].value, row.scores["STS12"].is_verified) == (98.0, False)
    # Comparisons do without it.
    assert (row.value(DEV), row.value("STS12")) == (60.0, None)


# --- Seeds and means ----------------------------------------------------------------------------


def test_transfer_scores_are_the_mean_over_seeds_the_newest_of_each() -> None:
    results = [
        store_transfer({"MR": 10.0}, seed=1, seconds=100.0),
        store_transfer({"MR": 80.0}, seed=1, seconds=3.0),
        store_transfer({"MR": 81.0}, seed=2, seconds=4.0),
        store_transfer({"MR": 83.5}, seed=3, seconds=8.0),
    ]
    report = build_rows(results)
    [row] = report.rows
    score = row.scores["MR"]
    assert score.by_seed == {1: 80.0, 2: 81.0, 3: 83.5}
    assert score.value == 81.5
    assert score.deviation == pytest.approx(statistics.stdev([80.0, 81.0, 83.5]))
    assert score.seconds == 5.0
    assert list(report.unused) == results[:1]


def test_the_mean_over_seeds_has_the_deviation_of_the_means() -> None:
    shift = {1: 0.0, 2: 1.0, 3: 5.0}
    results = [
        store_transfer({t: 80.0 + i + d for i, t in enumerate(TRANSFER_TASKS)}, seed=seed)
        for seed, d in shift.items()
    ]
    [row] = _rows(*results)
    assert row.mean is not None
    assert row.mean.value == 85.0
    assert row.mean.by_seed == {1: 83.0, 2: 84.0, 3: 88.0}
    assert row.mean.deviation == pytest.approx(statistics.stdev([83.0, 84.0, 88.0]))
    assert row.mean.seconds == 14.0


def test_the_mean_has_no_deviation_when_tasks_have_other_seeds() -> None:
    scores = dict.fromkeys(TRANSFER_TASKS, 80.0)
    both = [store_transfer(scores, seed=1), store_transfer(scores, seed=2)]
    [row] = _rows(*both, store_transfer({"MR": 87.0}, seed=3))
    assert row.mean is not None
    assert (row.mean.deviation, row.scores["CR"].deviation) == (None, 0.0)
    assert row.mean.value == 80.33


@pytest.mark.parametrize("missing", PAPER_TASKS)
def test_there_is_a_mean_only_with_all_seven(missing: str) -> None:
    scores = seven(70.0) | {"STSBenchmark-dev": 10.0, "sample-test": 10.0}
    [row] = _rows(store_result(scores))
    assert row.value(None) == 70.0
    del scores[missing]
    [row] = _rows(store_result(scores))
    assert row.mean is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-10000, 10000), min_size=7, max_size=7))
def test_the_mean_is_that_of_the_rounded_scores(hundredths: list[int]) -> None:
    scores = {t: n / 100 for t, n in zip(PAPER_TASKS, hundredths, strict=True)}
    [row] = _rows(store_result(scores))
    assert row.value(None) == pytest.approx(sum(hundredths) / 700, abs=0.00501)


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(6)))
def test_the_newest_wins_whatever_the_scores(order: list[int]) -> None:
    [row] = _rows(*[store_result({DEV: float(n)}) for n in order])
    assert row.value(DEV) == order[-1]


# --- Names --------------------------------------------------------------------------------------


def test_known_methods_come_first_and_in_order() -> None:
    labels = ["zebra", *reversed(METHODS), "Antelope"]
    names = _names(*[store_method(label, {DEV: 60.0}) for label in labels])
    expected = [method.title for method in METHODS.values()]
    expected[3] += ' "Sports"'
    assert names == [*expected, "Antelope", "zebra"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"label": "prompteol"}, "PromptEOL"),
        ({"label": "ours"}, "ours"),
        ({"run_name": "some run"}, "some run"),
        ({"label": "prompteol", "model": {**MODEL, "layer": 9}}, "PromptEOL, layer 9"),
        ({"label": "mean"}, "Mean pooling, last pooling"),
        ({"label": "prompteol", "prompt": demonstration("A")}, 'PromptEOL + demonstration "A"'),
        ({"label": "metaeol", "prompt": demonstration("A")}, 'MetaEOL "A"'),
        ({"label": "demonstration"}, "PromptEOL"),
        (
            {
                "label": "token-prepending",
                "model": {**MODEL, "token_prepending_layers": 3, "normalize": True},
            },
            "Token Prepending, token prepending in 3 layers, normalized",
        ),
        ({"adapter": "outputs/nli/adapter", "adapter_sha256": SHA}, "nli, fine-tuned"),
        ({"label": "prompteol", "adapter": "a", "adapter_sha256": SHA}, "PromptEOL, fine-tuned"),
        ({"prompt": {"template": "x", "demonstrations": [3, {"a": 1}]}}, 'first "None"'),
    ],
)
def test_names(changes: dict[str, Any], name: str) -> None:
    assert _names(store_result(**changes)) == [name]


def test_a_known_label_names_the_row_that_other_runs_share() -> None:
    known, other = [store_result(label=label) for label in ("prompteol", "ours")]
    assert _names(known, other, store_result()) == ["PromptEOL"]
    assert _names(store_result(label="ours"), store_result()) == ["ours"]


def test_equal_names_are_told_apart_by_what_differs() -> None:
    results = [
        store_result(label="ours"),
        store_result(label="ours", prompt={**PROMPT, "clean_up": "none"}),
        store_result(label="same", prompt={"template": "a" * 90 + "b"}),
        store_result(label="same", prompt={"template": "a" * 90 + "c"}),
    ]
    first, second, third, fourth = _names(*results)
    assert (first, second) == ("ours, prompt.clean_up=none", "ours, prompt.clean_up=paper")
    assert third != fourth
    assert all(
        name.startswith(f"same, prompt.template={'a' * 57}... (") for name in (third, fourth)
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20)), max_size=8, unique=True))
def test_distinguished_names_are_unique(items: list[tuple[str, int]]) -> None:
    new = distinguish([name for name, _ in items], [{"x": {"y": n}} for _, n in items])
    assert len(set(new)) == len(items)
    for (name, number), text in zip(items, new, strict=True):
        alone = [other for other, _ in items].count(name) == 1
        assert text == (name if alone else f"{name}, x.y={number}")


def test_a_model_is_called_by_its_file_then_by_its_short_name() -> None:
    local = {**MODEL, "name": "/models/mine"}
    rows = _rows(
        store_result(model_choice="opt-125m"),
        store_result(adapter="a", adapter_sha256=SHA),
        store_result(model=local),
        store_result(model={**local, "revision": "new"}),
    )
    bases = [row.base for row in rows]
    assert bases[:2] == ["mine, float32, model.revision=new", "mine, float32, model.revision=null"]
    assert bases[2:] == ["opt-125m, float32"] * 2


def test_methods_are_those_of_the_configuration() -> None:
    files = {path.stem for path in (CONF_DIR / "method").glob("*.yaml")}
    assert METHODS.keys() == files
    for label, method in METHODS.items():
        config = compose_evaluate(f"method={label}", "run_name=x")
        assert config.model.pooling == method.pooling
        assert config.model.token_prepending_layers == method.token_prepending_layers
        assert bool(config.prompt.demonstrations) == (label == "demonstration")
        text = (CONF_DIR / "method" / f"{label}.yaml").read_text("utf-8")
        prompts = [p.read_text("utf-8") for p in (CONF_DIR / "prompt").glob("*.yaml")]
        if label not in ("mean", "plain", "demonstration"):
            assert method.authors
            assert method.authors in text
            # The paper's own number stands in the README.
            assert label == "prompteol" or any(method.arxiv in prompt for prompt in prompts)
