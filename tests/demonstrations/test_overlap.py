"""Which demonstrations occur in evaluation sets: the rule, the report, the real tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from embedllm.config import EvaluationConfig
from embedllm.demonstrations import overlap
from embedllm.demonstrations.overlap import (
    EvaluationTexts,
    OverlapScreen,
    load_evaluation_texts,
    normalize,
)
from embedllm.demonstrations.sets import load_demonstrations
from embedllm.errors import ConfigError, DataError
from embedllm.evaluation.tasks import PAPER_TASKS, load_task
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS, load_transfer_task

# How many of the paper's 300 sentences occur in each set; counted once, by another program.
PAPER_OVERLAPS = {
    "STS12": 45,
    "STS13": 2,
    "STS14": 54,
    "STS15": 5,
    "STS16": 2,
    "STSBenchmark": 12,
    "SICKRelatedness": 16,
}

TEXTS = EvaluationTexts(
    {"one": frozenset({"amanruns", "adogsleeps"}), "two": frozenset({"amanruns"})},
    {"three": "no files"},
)


# --- The rule -----------------------------------------------------------------------------------


@given(text=st.text())
def test_only_letters_and_digits_count(text: str) -> None:
    key = normalize(text)
    assert normalize(key) == key
    assert normalize(f" '{text.swapcase().swapcase()}' .") == normalize(text.swapcase().swapcase())
    assert all(character.isalnum() for character in key)


def test_case_tokenization_and_full_stops_do_not_matter() -> None:
    assert normalize("A man 's dog, No. 5!") == normalize("a man's Dog , no 5 .") == "amansdogno5"
    assert normalize("A man runs.") != normalize("A man ran.")


def test_a_screen_lets_new_sentences_pass_once() -> None:
    screen = OverlapScreen(TEXTS)
    sentences = [
        "A cat eats.",
        "a man runs",
        "a cat eats",
        "A man runs .",
        "A dog sleeps.",
        "!",
        "?",
    ]
    assert [screen.admits(s) for s in sentences] == [True, False, False, False, False, True, True]
    report = screen.report()
    assert (report.num_compared, screen.num_repeated) == (5, 2)
    assert report.per_task == {"one": 2, "two": 1}
    assert [(o.sentence, o.tasks) for o in report.overlaps] == [
        ("a man runs", ("one", "two")),
        ("A dog sleeps.", ("one",)),
    ]


def test_kept_overlaps_are_counted_all_the_same() -> None:
    screen = OverlapScreen(TEXTS, keep_overlaps=True)
    assert [screen.admits(s) for s in ("a man runs", "a man runs.", "a cat")] == [True, False, True]
    assert screen.report().per_task == {"one": 1, "two": 1}
    assert screen.report().are_kept


def test_the_report_as_values_and_as_a_table() -> None:
    screen = OverlapScreen(TEXTS)
    for sentence in ("A man runs.", "A cat eats."):
        screen.admits(sentence)
    report = screen.report()
    assert json.loads(json.dumps(report.to_dict())) == {
        "num_compared": 2,
        "num_overlaps": 1,
        "are_kept": False,
        "per_task": {"one": 1, "two": 1},
        "not_compared": {"three": "no files"},
        "overlaps": [{"sentence": "A man runs.", "tasks": ["one", "two"]}],
    }
    console = Console(width=80, record=True)
    console.print(report.to_table())
    shown = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert ["one", "1"] in shown
    assert ["three", "not", "compared"] in shown
    assert shown[-1] == ["in", "any", "of", "them", "1"]


# --- Tasks --------------------------------------------------------------------------------------


def test_sample_tasks_need_no_files() -> None:
    texts = load_evaluation_texts(EvaluationConfig(tasks=["sample-test"], dev_task="sample-dev"))
    assert list(texts.texts) == ["sample-test", "sample-dev"]
    sentence = load_task("sample-test", data_dir=None).subsets["test"].sentence2[7]
    assert "sample-test" in texts.tasks_with(sentence.upper())


def test_no_tasks_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert load_evaluation_texts(EvaluationConfig()).texts == {}
    assert "compared with nothing" in caplog.text


def test_tasks_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for data_dir in (None, str(tmp_path)):
        with pytest.raises(DataError) as caught:
            load_evaluation_texts(EvaluationConfig(tasks=["STS12"], data_dir=data_dir))
        assert "evaluation.data_dir" in str(caught.value)
        assert "evaluation=none" in str(caught.value)
        # Not everybody has the transfer tasks.
        config = EvaluationConfig(tasks=["sample-test", "MR"], data_dir=data_dir)
        texts = load_evaluation_texts(config)
        assert list(texts.texts) == ["sample-test"]
        assert list(texts.not_compared) == ["MR"]
        assert "not compared with MR" in caplog.text
    with pytest.raises(ConfigError, match="STS17"):
        load_evaluation_texts(EvaluationConfig(tasks=["STS17"]))


def test_verify_and_layout_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    def load(name: str, **options: object) -> object:
        seen.append((name, options["verify"], options.get("layout")))
        raise DataError("stop")

    monkeypatch.setattr(overlap, "load_task", load)
    monkeypatch.setattr(overlap, "load_transfer_task", load)
    config = EvaluationConfig(tasks=["MR", "STS12"], verify="counts", layout="jsonl")
    with pytest.raises(DataError, match="stop"):
        load_evaluation_texts(config)
    assert seen == [("MR", "counts", None), ("STS12", "counts", "jsonl")]


# --- Real data ----------------------------------------------------------------------------------


@pytest.fixture
def real_texts(data_dir: Path) -> EvaluationTexts:
    config = EvaluationConfig(
        tasks=[*PAPER_TASKS, *TRANSFER_TASKS], dev_task="STSBenchmark-dev", data_dir=str(data_dir)
    )
    return load_evaluation_texts(config)


def test_the_papers_demonstrations(real_texts: EvaluationTexts, data_dir: Path) -> None:
    assert not real_texts.not_compared
    screen = OverlapScreen(real_texts)
    demonstrations = load_demonstrations("paper", data_dir=data_dir)
    admitted = [d for d in demonstrations if screen.admits(d.sentence)]
    report = screen.report()
    assert {task: report.per_task[task] for task in PAPER_TASKS} == PAPER_OVERLAPS
    assert report.num_compared == 300
    assert screen.num_repeated == 0
    assert len(report.overlaps) + len(admitted) == 300
    # A sentence of STS-B train that is not in any test set, and one that is.
    by_sentence = {o.sentence: o.tasks for o in report.overlaps}
    assert not any(real_texts.tasks_with(d.sentence) for d in admitted)
    assert set().union(*by_sentence.values()) >= set(PAPER_TASKS)


def test_all_splits_and_both_sentences_count(real_texts: EvaluationTexts, data_dir: Path) -> None:
    for name in ("SST2", "TREC", "MRPC"):
        expected: set[str] = set()
        for split in load_transfer_task(name, data_dir=data_dir).splits.values():
            expected |= {normalize(s) for s in [*split.sentence1, *(split.sentence2 or [])]}
        assert real_texts.texts[name] == expected - {""}
    for name in (*PAPER_TASKS, "STSBenchmark-dev"):
        expected = set()
        for subset in load_task(name, data_dir=data_dir).subsets.values():
            expected |= {normalize(s) for s in [*subset.sentence1, *subset.sentence2]}
            assert name in real_texts.tasks_with(f"{subset.sentence2[-1].upper()} !")
        assert real_texts.texts[name] == expected - {""}
