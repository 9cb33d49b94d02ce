from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from embedllm.errors import ConfigError, DataError
from embedllm.evaluation import transfer_tasks as transfer_tasks_module
from embedllm.evaluation.transfer_readers import TRANSFER_FILES
from embedllm.evaluation.transfer_tasks import (
    EMPTY_SENTENCE_STAND_IN,
    SPLITS_OF_KIND,
    TRANSFER_TASKS,
    TransferSplit,
    TransferTask,
    fingerprint_split,
    fingerprint_transfer_task,
    load_transfer_task,
    senteval_order,
    texts_to_encode,
)

# Examples per class, label 0 first; the sums are those of the README of the data.
NUM_PER_CLASS = {
    "MR": {"all": [5331, 5331]},
    "CR": {"all": [1368, 2407]},
    "SUBJ": {"all": [5000, 5000]},
    "MPQA": {"all": [7294, 3312]},
    "SST2": {"train": [29780, 37569], "dev": [428, 444], "test": [912, 909]},
    "TREC": {"train": [86, 1162, 1250, 1223, 835, 896], "test": [9, 138, 94, 65, 81, 113]},
    "MRPC": {"train": [1323, 2753], "test": [578, 1147]},
}
TOTALS = {
    "MR": 10662,
    "CR": 3775,
    "SUBJ": 10000,
    "MPQA": 10606,
    "SST2": 67349 + 872 + 1821,
    "TREC": 5452 + 500,
    "MRPC": 4076 + 1725,
}


def read_checksums() -> dict[str, dict[str, dict[str, Any]]]:
    path = Path(transfer_tasks_module.__file__).with_name("transfer_checksums.json")
    published: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text("utf-8"))
    return published


def write_made_up_cr(root: Path, *, num_pos: int = 2407, num_neg: int = 1368) -> Path:
    """Writes a CR of the right size, or of another one, with text that is not CR's."""
    folder = root / "CR"
    folder.mkdir(parents=True)
    for name, num in (("pos", num_pos), ("neg", num_neg)):
        (folder / f"custrev.{name}").write_text("".join(f"{name} {i}\n" for i in range(num)))
    return root


def copy_task(data_dir: Path, root: Path, folder: str) -> Path:
    target = root / folder
    target.mkdir(parents=True)
    for path in (data_dir / "senteval" / folder).iterdir():
        # copyfile, because the originals may be read-only and copies of their mode too.
        shutil.copyfile(path, target / path.name)
    return target


def test_checksums_list_exactly_the_tasks_splits_and_counts() -> None:
    published = read_checksums()
    assert list(published) == list(TRANSFER_TASKS) == list(TRANSFER_FILES)
    for task, splits in published.items():
        assert {name: entry["num_per_class"] for name, entry in splits.items()} == (
            NUM_PER_CLASS[task]
        )
        assert tuple(splits) == SPLITS_OF_KIND[TRANSFER_FILES[task].kind]
        for entry in splits.values():
            assert entry["num_examples"] == sum(entry["num_per_class"])
    hashes = {entry["sha256"] for splits in published.values() for entry in splits.values()}
    assert len(hashes) == sum(len(splits) for splits in published.values())


@pytest.mark.parametrize("name", TRANSFER_TASKS)
def test_real_tasks_have_the_published_content(data_dir: Path, name: str) -> None:
    task = load_transfer_task(name, data_dir=data_dir)
    assert task.name == name
    assert tuple(task.splits) == SPLITS_OF_KIND[task.kind] == tuple(NUM_PER_CLASS[name])
    assert task.num_classes == (6 if name == "TREC" else 2)
    assert task.is_pair_task is (name == "MRPC")
    assert task.num_examples == TOTALS[name]
    fingerprints = fingerprint_transfer_task(task)
    assert {split: dict(found) for split, found in fingerprints.items()} == read_checksums()[name]


def test_the_root_of_senteval_can_be_named_directly(data_dir: Path) -> None:
    expected = load_transfer_task("TREC", data_dir=data_dir)
    assert load_transfer_task("TREC", data_dir=data_dir / "senteval") == expected


def test_tasks_say_how_a_classifier_is_tested() -> None:
    kinds = {name: files.kind for name, files in TRANSFER_FILES.items()}
    assert kinds == {
        **dict.fromkeys(("MR", "CR", "SUBJ", "MPQA"), "cross_validation"),
        "SST2": "train_dev_test",
        **dict.fromkeys(("TREC", "MRPC"), "train_test"),
    }


@pytest.mark.parametrize("name", TRANSFER_TASKS)
def test_senteval_order_of_real_splits(data_dir: Path, name: str) -> None:
    """Against the rule on lists of words: a stable sort by lengths, then by label."""
    for split in load_transfer_task(name, data_dir=data_dir).splits.values():
        sentences = [split.sentence1, *([] if split.sentence2 is None else [split.sentence2])]
        rows = [
            ([texts[position].split() for texts in sentences], label, position)
            for position, label in enumerate(split.labels)
        ]
        rows.sort(key=lambda row: ([len(words) for words in row[0]], row[1]))
        order = senteval_order(split)
        assert order == [position for *_, position in rows]
        assert sorted(order) == list(range(len(split))) != order


def test_senteval_order_counts_words_then_label_then_position() -> None:
    split = TransferSplit(
        sentence1=["two words", "x", "", "long-single-word", "a b", "c d", "y"],
        sentence2=None,
        labels=[1, 1, 1, 1, 0, 1, 0],
    )
    assert senteval_order(split) == [2, 6, 1, 3, 4, 0, 5]


def test_senteval_order_of_pairs_looks_at_both_sentences() -> None:
    split = TransferSplit(
        sentence1=["a", "b", "c", "d d", "e", "f"],
        sentence2=["1 2 3", "1 2", "1 2", "1", "1 2", "1"],
        labels=[0, 1, 0, 0, 1, 1],
    )
    assert senteval_order(split) == [5, 2, 1, 4, 0, 3]


def test_texts_to_encode_fill_only_sentences_without_words() -> None:
    assert texts_to_encode(["a b", "", ".", " "]) == ["a b", ".", ".", "."]
    assert EMPTY_SENTENCE_STAND_IN == "."


def test_real_empty_sentences_are_kept_and_filled(data_dir: Path) -> None:
    for name, num_empty in (("CR", 4), ("MPQA", 3), ("MR", 0)):
        sentences = load_transfer_task(name, data_dir=data_dir).splits["all"].sentence1
        texts = texts_to_encode(sentences)
        changed = [pair for pair in zip(sentences, texts, strict=True) if pair[0] != pair[1]]
        assert changed == [("", ".")] * num_empty
        assert sentences.count("") == num_empty


def test_one_change_in_the_real_data_is_noticed(data_dir: Path, tmp_path: Path) -> None:
    folder = copy_task(data_dir, tmp_path, "SST/binary")
    path = folder / "sentiment-dev"
    original = path.read_text("utf-8")
    assert load_transfer_task("SST2", data_dir=tmp_path).num_examples == TOTALS["SST2"]
    path.write_text(original.replace("charming", "Charming", 1), "utf-8")
    with pytest.raises(DataError, match=r"SST2, split dev: the 872 examples have SHA-256") as found:
        load_transfer_task("SST2", data_dir=tmp_path)
    assert str(path) in str(found.value)
    assert load_transfer_task("SST2", data_dir=tmp_path, verify="counts").num_classes == 2
    first, second, *rest = original.splitlines(keepends=True)
    path.write_text("".join([second, first, *rest]), "utf-8")
    with pytest.raises(DataError, match=r"SST2, split dev: .* SHA-256"):
        load_transfer_task("SST2", data_dir=tmp_path)
    path.write_text("".join([second, *rest]), "utf-8")
    with pytest.raises(DataError, match=r"found 871 examples \(428 negative, 443 positive\)"):
        load_transfer_task("SST2", data_dir=tmp_path, verify="counts")


def test_a_dropped_empty_line_of_the_real_data_is_noticed(data_dir: Path, tmp_path: Path) -> None:
    path = copy_task(data_dir, tmp_path, "MPQA") / "mpqa.pos"
    lines = path.read_text("ascii").split("\n")[:-1]
    path.write_text("".join(f"{line}\n" for line in lines if line.strip()), "ascii")
    with pytest.raises(DataError, match=r"MPQA, split all: found 10605 .* 3311 positive\)"):
        load_transfer_task("MPQA", data_dir=tmp_path)


def test_other_text_with_right_counts_needs_the_lenient_check(tmp_path: Path) -> None:
    write_made_up_cr(tmp_path)
    with pytest.raises(DataError, match="CR, split all") as caught:
        load_transfer_task("CR", data_dir=tmp_path)
    message = str(caught.value)
    assert "evaluation.verify=counts" in message
    assert "evaluation.data_dir" in message
    assert str(read_checksums()["CR"]["all"]["sha256"]) in message
    for name in ("pos", "neg"):
        assert str(tmp_path / "CR" / f"custrev.{name}") in message
    split = load_transfer_task("CR", data_dir=tmp_path, verify="counts").splits["all"]
    assert (split.sentence1[2406], split.labels[2406]) == ("pos 2406", 1)
    assert (split.sentence1[2407], split.labels[2407]) == ("neg 0", 0)
    assert split.sentence2 is None


@pytest.mark.parametrize("verify", ["counts", "strict"])
@pytest.mark.parametrize(("num_pos", "num_neg"), [(2407, 1367), (2406, 1369), (0, 0)])
def test_wrong_counts_fail_under_both_checks(
    tmp_path: Path, verify: Any, num_pos: int, num_neg: int
) -> None:
    """Also with the right total: one example more in one class, one less in the other."""
    write_made_up_cr(tmp_path, num_pos=num_pos, num_neg=num_neg)
    expected = (
        rf"CR, split all: found {num_pos + num_neg} examples \({num_neg} negative, {num_pos} "
        r"positive\), expected 3775 \(1368 negative, 2407 positive\), in .*custrev\.pos"
    )
    with pytest.raises(DataError, match=expected) as caught:
        load_transfer_task("CR", data_dir=tmp_path, verify=verify)
    assert "evaluation.data_dir" in str(caught.value)
    assert "evaluation.verify" in str(caught.value)


@pytest.mark.parametrize("name", ["mr", "SST", "STS12", "SST5", ""])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.tasks") as caught:
        load_transfer_task(name, data_dir=None)
    assert ", ".join(TRANSFER_TASKS) in str(caught.value)


def test_no_folder_names_key_and_variable() -> None:
    with pytest.raises(DataError, match=r"MR .* evaluation\.data_dir .* EMBEDLLM_DATA_DIR"):
        load_transfer_task("MR", data_dir=None)


def test_fingerprints_are_the_documented_serialisation() -> None:
    single = TransferSplit(sentence1=["a b", "", "\u00e9"], sentence2=None, labels=[1, 0, 1])
    text = "1\ta b\n0\t\n1\t\u00e9\n"
    assert fingerprint_split(single, num_classes=3) == {
        "num_examples": 3,
        "num_per_class": [1, 2, 0],
        "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
    }
    pairs = TransferSplit(sentence1=["a b"], sentence2=["c"], labels=[0])
    assert fingerprint_split(pairs, num_classes=2)["sha256"] == (
        hashlib.sha256(b"0\ta b\tc\n").hexdigest()
    )


WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=3)
SENTENCES = st.lists(WORDS, max_size=3).map(" ".join)
LABELS = st.integers(0, 2)


@st.composite
def splits(draw: st.DrawFn) -> TransferSplit:
    has_pairs = draw(st.booleans())
    rows = draw(st.lists(st.tuples(SENTENCES, SENTENCES, LABELS), min_size=1, max_size=6))
    return TransferSplit(
        sentence1=[first for first, _, _ in rows],
        sentence2=[second for _, second, _ in rows] if has_pairs else None,
        labels=[label for *_, label in rows],
    )


def with_entry(values: list[Any], position: int, value: object) -> list[Any]:
    return [*values[:position], value, *values[position + 1 :]]


def digest(split: TransferSplit) -> str:
    return fingerprint_split(split, num_classes=3)["sha256"]


@given(splits(), st.data())
def test_any_changed_entry_changes_the_fingerprint(
    split: TransferSplit, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(split) - 1))
    columns: dict[str, Any] = {
        "sentence1": split.sentence1,
        "sentence2": split.sentence2,
        "labels": split.labels,
    }
    column = data.draw(st.sampled_from([name for name in columns if columns[name] is not None]))
    value = data.draw(LABELS if column == "labels" else SENTENCES)
    assume(value != columns[column][position])
    changed = columns | {column: with_entry(columns[column], position, value)}
    assert digest(TransferSplit(**changed)) != digest(split)


@given(splits(), st.randoms(use_true_random=False))
def test_another_order_changes_the_fingerprint(split: TransferSplit, random: Any) -> None:
    order = list(range(len(split)))
    random.shuffle(order)
    seconds = split.sentence2
    moved = TransferSplit(
        sentence1=[split.sentence1[i] for i in order],
        sentence2=None if seconds is None else [seconds[i] for i in order],
        labels=[split.labels[i] for i in order],
    )
    assert (digest(moved) == digest(split)) is (moved == split)
    assert (
        fingerprint_split(moved, num_classes=3)["num_per_class"]
        == (fingerprint_split(split, num_classes=3)["num_per_class"])
    )


@given(splits())
def test_a_dropped_or_repeated_example_changes_the_fingerprint(split: TransferSplit) -> None:
    seconds = split.sentence2
    shorter = TransferSplit(
        sentence1=split.sentence1[:-1],
        sentence2=None if seconds is None else seconds[:-1],
        labels=split.labels[:-1],
    )
    longer = TransferSplit(
        sentence1=[*split.sentence1, split.sentence1[-1]],
        sentence2=None if seconds is None else [*seconds, seconds[-1]],
        labels=[*split.labels, split.labels[-1]],
    )
    assert len({digest(shorter), digest(split), digest(longer)}) == 3


@given(splits())
def test_moved_words_and_swapped_columns_change_the_fingerprint(split: TransferSplit) -> None:
    seconds = split.sentence2 or [""] * len(split)
    pairs = TransferSplit(sentence1=split.sentence1, sentence2=seconds, labels=split.labels)
    swapped = TransferSplit(sentence1=seconds, sentence2=split.sentence1, labels=split.labels)
    assert (digest(pairs) == digest(swapped)) is (seconds == split.sentence1)
    singles = TransferSplit(sentence1=split.sentence1, sentence2=None, labels=split.labels)
    assert digest(pairs) != digest(singles)


@given(splits())
def test_senteval_order_is_a_permutation_into_growing_keys(split: TransferSplit) -> None:
    order = senteval_order(split)
    assert sorted(order) == list(range(len(split)))
    seconds = split.sentence2 or [""] * len(split)
    keys = [
        (len(split.sentence1[i].split()), len(seconds[i].split()), split.labels[i], i)
        for i in order
    ]
    assert keys == sorted(keys)


def test_splits_and_tasks_refuse_impossible_content() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        TransferSplit(sentence1=["a"], sentence2=None, labels=[])
    with pytest.raises(ValueError, match="different lengths"):
        TransferSplit(sentence1=["a"], sentence2=[], labels=[0])
    single = TransferSplit(sentence1=["a"], sentence2=None, labels=[1])
    pair = TransferSplit(sentence1=["a"], sentence2=["b"], labels=[1])
    none = TransferSplit(sentence1=[], sentence2=None, labels=[])
    for kind, content, fault in (
        ("cross_validation", {"train": single}, "has splits"),
        ("train_test", {"test": single, "train": single}, "has splits"),
        ("train_test", {"train": single, "test": none}, r"empty splits \(\['test'\]\)"),
        ("train_test", {"train": single, "test": pair}, "only some splits with pairs"),
    ):
        with pytest.raises(ValueError, match=fault):
            TransferTask(name="t", kind=kind, num_classes=2, splits=content)  # type: ignore[arg-type]
    for num_classes, labels in ((1, [1]), (2, [-1])):
        split = TransferSplit(sentence1=["a"], sentence2=None, labels=labels)
        with pytest.raises(ValueError, match=rf"labels \[{labels[0]}\], expected 0 to"):
            TransferTask(
                name="t", kind="cross_validation", num_classes=num_classes, splits={"all": split}
            )
