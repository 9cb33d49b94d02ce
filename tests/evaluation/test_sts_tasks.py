from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedllm.errors import ConfigError, DataError
from embedllm.evaluation import tasks as tasks_module
from embedllm.evaluation.readers import TASK_FILES, Layout
from embedllm.evaluation.tasks import (
    PAPER_TASKS,
    SAMPLE_TASKS,
    PairSubset,
    PairTask,
    fingerprint_subset,
    fingerprint_task,
    load_task,
    load_tasks,
)
from embedllm.evaluation.transfer_tasks import TRANSFER_TASKS

# The published sizes of the tasks, as the README of the data lists them.
NUM_PAIRS = {
    "STS12": {
        "MSRpar": 750,
        "MSRvid": 750,
        "SMTeuroparl": 459,
        "surprise.OnWN": 750,
        "surprise.SMTnews": 399,
    },
    "STS13": {"FNWN": 189, "headlines": 750, "OnWN": 561},
    "STS14": {
        "deft-forum": 450,
        "deft-news": 300,
        "headlines": 750,
        "OnWN": 750,
        "images": 750,
        "tweet-news": 750,
    },
    "STS15": {
        "answers-forums": 375,
        "answers-students": 750,
        "belief": 375,
        "headlines": 750,
        "images": 750,
    },
    "STS16": {
        "answer-answer": 254,
        "headlines": 249,
        "plagiarism": 230,
        "postediting": 244,
        "question-question": 209,
    },
    "STSBenchmark": {"test": 1379},
    "SICKRelatedness": {"test": 4927},
    "STSBenchmark-dev": {"dev": 1500},
}
TOTALS = {"STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS16": 1186}


def read_checksums() -> dict[str, dict[str, dict[str, object]]]:
    path = Path(tasks_module.__file__).with_name("checksums.json")
    published: dict[str, dict[str, dict[str, object]]] = json.loads(path.read_text("utf-8"))
    return published


def write_made_up_sts13(root: Path, changed_counts: dict[str, int] | None = None) -> Path:
    """Writes an STS13 of the right size, or of other sizes, with text that is not STS13's."""
    folder = root / "STS" / "STS13-en-test"
    folder.mkdir(parents=True)
    for subset, num in (NUM_PAIRS["STS13"] | (changed_counts or {})).items():
        inputs = "".join(f"first {i}\tsecond {i}\n" for i in range(num))
        golds = "".join(f"{i % 6}\n" for i in range(num))
        (folder / f"STS.input.{subset}.txt").write_text(inputs)
        (folder / f"STS.gs.{subset}.txt").write_text(golds)
    return root


def test_checksums_list_exactly_the_tasks_subsets_and_counts() -> None:
    counts = {
        task: {subset: entry["num_pairs"] for subset, entry in subsets.items()}
        for task, subsets in read_checksums().items()
    }
    assert counts == NUM_PAIRS
    assert {task: list(subsets) for task, subsets in counts.items()} == {
        task: list(files.subsets) for task, files in TASK_FILES.items()
    }


def test_fingerprint_is_the_documented_serialisation() -> None:
    subset = PairSubset(sentence1=["a b", "c"], sentence2=["d", "\u00e9"], scores=[4.0, 1 / 3])
    text = "a b\td\t4.0000\nc\t\u00e9\t0.3333\n"
    expected = hashlib.sha256(text.encode("utf-8")).hexdigest()
    assert fingerprint_subset(subset) == {"num_pairs": 2, "sha256": expected}


@pytest.mark.parametrize("layout", ["auto", "senteval", "jsonl"])
def test_real_tasks_have_the_published_counts(sts_data_dir: Path, layout: Layout) -> None:
    tasks = load_tasks(list(NUM_PAIRS), data_dir=sts_data_dir, layout=layout)
    assert [task.name for task in tasks] == list(NUM_PAIRS)
    for task in tasks:
        found = {name: len(subset) for name, subset in task.subsets.items()}
        assert list(found.items()) == list(NUM_PAIRS[task.name].items())
        assert task.num_pairs == TOTALS.get(task.name, sum(found.values()))
        published = {
            name: dict(fingerprint) for name, fingerprint in fingerprint_task(task).items()
        }
        assert published == read_checksums()[task.name]


@pytest.mark.parametrize("name", list(NUM_PAIRS))
def test_both_layouts_give_the_same_task(sts_data_dir: Path, name: str) -> None:
    from_senteval = load_task(name, data_dir=sts_data_dir, layout="senteval")
    from_jsonl = load_task(name, data_dir=sts_data_dir, layout="jsonl")
    assert from_senteval == from_jsonl
    assert list(from_senteval.subsets) == list(from_jsonl.subsets)


def test_inner_folders_can_be_named_directly(sts_data_dir: Path) -> None:
    expected = load_task("STSBenchmark-dev", data_dir=sts_data_dir)
    senteval, lines = sts_data_dir / "senteval", sts_data_dir / "sts"
    assert load_task("STSBenchmark-dev", data_dir=senteval, layout="senteval") == expected
    assert load_task("STSBenchmark-dev", data_dir=lines) == expected


def test_one_changed_score_in_the_real_data_is_noticed(sts_data_dir: Path, tmp_path: Path) -> None:
    source = sts_data_dir / "senteval" / "STS" / "STSBenchmark" / "sts-dev.csv"
    target = tmp_path / "STS" / "STSBenchmark" / "sts-dev.csv"
    target.parent.mkdir(parents=True)
    shutil.copyfile(source, target)
    assert load_task("STSBenchmark-dev", data_dir=tmp_path).num_pairs == 1500
    text = target.read_text("utf-8")
    assert text.count("\t5.000\t") > 1
    target.write_text(text.replace("\t5.000\t", "\t4.000\t", 1), "utf-8")
    with pytest.raises(DataError, match=r"STSBenchmark-dev, subset dev: .* SHA-256"):
        load_task("STSBenchmark-dev", data_dir=tmp_path)
    target.write_text("".join(text.splitlines(keepends=True)[:-1]), "utf-8")
    with pytest.raises(DataError, match="found 1499 pairs with a gold score, expected 1500"):
        load_task("STSBenchmark-dev", data_dir=tmp_path)


def test_other_text_with_right_counts_needs_the_lenient_check(tmp_path: Path) -> None:
    write_made_up_sts13(tmp_path)
    with pytest.raises(DataError) as caught:
        load_task("STS13", data_dir=tmp_path)
    message = str(caught.value)
    assert "STS13, subset FNWN" in message
    assert "evaluation.verify=counts" in message
    assert str(read_checksums()["STS13"]["FNWN"]["sha256"]) in message
    for kind in ("input", "gs"):
        assert str(tmp_path / "STS" / "STS13-en-test" / f"STS.{kind}.FNWN.txt") in message
    task = load_task("STS13", data_dir=tmp_path, verify="counts")
    assert task.num_pairs == 1500
    assert task.subsets["OnWN"].sentence2[560] == "second 560"


@pytest.mark.parametrize("num", [0, 748, 751])
def test_wrong_counts_fail_under_both_checks(tmp_path: Path, num: int) -> None:
    write_made_up_sts13(tmp_path, {"headlines": num})
    expected = rf"STS13, subset headlines: found {num} pairs with a gold score, expected 750, in "
    with pytest.raises(DataError, match=expected) as caught:
        load_task("STS13", data_dir=tmp_path, verify="counts")
    assert "STS.gs.headlines.txt" in str(caught.value)
    assert "evaluation.data_dir" in str(caught.value)
    with pytest.raises(DataError, match=expected):
        load_task("STS13", data_dir=tmp_path, verify="strict")


@pytest.mark.parametrize("name", ["STS17", "sts12", "STSBenchmark-test", ""])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.tasks") as caught:
        load_task(name, data_dir=None)
    for known in (*PAPER_TASKS, "STSBenchmark-dev", *SAMPLE_TASKS, *TRANSFER_TASKS):
        assert known in str(caught.value)


def test_a_transfer_task_has_no_pairs() -> None:
    with pytest.raises(ConfigError, match="MR is a transfer task, but this needs pairs"):
        load_tasks(["STS12", "MR"], data_dir=None)


def test_unknown_names_are_found_before_any_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'STS99'"):
        load_tasks(["STS12", "STS99"], data_dir=tmp_path)


@pytest.mark.parametrize("names", [[], ["STS12", "STS12"]])
def test_no_task_or_one_twice_is_a_config_error(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.tasks"):
        load_tasks(names, data_dir=tmp_path)


def test_no_folder_names_key_and_variable() -> None:
    with pytest.raises(DataError, match=r"evaluation\.data_dir .* EMBEDLLM_DATA_DIR"):
        load_task("STS12", data_dir=None)


def test_sample_tasks_need_no_files() -> None:
    dev, test = load_tasks(SAMPLE_TASKS, data_dir=None)
    assert [dev.name, test.name] == list(SAMPLE_TASKS)
    assert dev.num_pairs == test.num_pairs == 200
    assert dev.subsets["dev"] != test.subsets["test"]
    assert load_task("sample-dev", data_dir=None) == dev
    assert len(set(dev.subsets["dev"].scores)) > 1


def test_subsets_and_tasks_refuse_impossible_content() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        PairSubset(sentence1=["a"], sentence2=["b"], scores=[])
    with pytest.raises(ValueError, match="no pairs"):
        PairTask(name="t", subsets={})
    with pytest.raises(ValueError, match="empty subsets: \\['s'\\]"):
        PairTask(name="t", subsets={"s": PairSubset(sentence1=[], sentence2=[], scores=[])})


def test_evaluation_imports_no_model_library() -> None:
    code = (
        "import sys, embedllm.evaluation.report;"
        "heavy = {'torch', 'transformers', 'pytorch_lightning', 'lightning', 'hydra', 'peft'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
