from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedllm.errors import DataError
from embedllm.evaluation.transfer_readers import (
    TRANSFER_FILES,
    TransferExample,
    read_transfer_files,
)

MRPC_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
BINARY = {
    "MR": ("rt-polarity.pos", "rt-polarity.neg"),
    "CR": ("custrev.pos", "custrev.neg"),
    "SUBJ": ("subj.objective", "subj.subjective"),
    "MPQA": ("mpqa.pos", "mpqa.neg"),
}


def write(root: Path, texts: dict[str, str], encoding: str = "utf-8") -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding))
    return root


def write_sst(root: Path, train: str) -> Path:
    rest = {f"SST/binary/sentiment-{split}": "fine\t1\n" for split in ("dev", "test")}
    return write(root, {"SST/binary/sentiment-train": train, **rest})


def write_trec(root: Path, train: str) -> Path:
    texts = {"TREC/train_5500.label": train, "TREC/TREC_10.label": "NUM:date When ?\n"}
    return write(root, texts, encoding="latin-1")


def write_mrpc(root: Path, train: str) -> Path:
    test = MRPC_HEADER + "0\t1\t2\ta\tb\n"
    folder = "MRPC/msr_paraphrase"
    return write(root, {f"{folder}_train.txt": train, f"{folder}_test.txt": test})


def read(name: str, root: Path, split: str = "train") -> list[TransferExample]:
    return read_transfer_files(TRANSFER_FILES[name], root).examples[split]


@pytest.mark.parametrize("task", list(BINARY))
def test_label_one_comes_first(tmp_path: Path, task: str) -> None:
    ones, zeros = BINARY[task]
    write(tmp_path, {f"{task}/{ones}": "of one\nB b\n", f"{task}/{zeros}": "of zero\n"})
    content = read_transfer_files(TRANSFER_FILES[task], tmp_path)
    assert content.examples == {
        "all": [
            TransferExample("of one", None, 1),
            TransferExample("B b", None, 1),
            TransferExample("of zero", None, 0),
        ]
    }
    assert content.paths == {"all": (tmp_path / task / ones, tmp_path / task / zeros)}


def test_class_names_of_the_binary_tasks_fit_their_files() -> None:
    for task, (ones, zeros) in BINARY.items():
        zero_class, one_class = TRANSFER_FILES[task].classes
        assert one_class.startswith(ones.rsplit(".", 1)[1])
        assert zero_class.startswith(zeros.rsplit(".", 1)[1])


def test_empty_lines_are_examples_without_words(tmp_path: Path) -> None:
    write(tmp_path, {"CR/custrev.pos": "\ngood\n \t\r\n\n", "CR/custrev.neg": "bad\n\n"})
    sentences = [(example.sentence1, example.label) for example in read("CR", tmp_path, "all")]
    assert sentences == [("", 1), ("good", 1), ("", 1), ("", 1), ("bad", 0), ("", 0)]


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\x0b", "\x1c", "\r"])
def test_only_line_feeds_end_a_line(tmp_path: Path, separator: str) -> None:
    write(tmp_path, {"MR/rt-polarity.pos": f"a{separator}b\nc", "MR/rt-polarity.neg": "d\n"})
    assert [example.sentence1 for example in read("MR", tmp_path, "all")] == ["a b", "c", "d"]


def test_sst_sentence_then_label(tmp_path: Path) -> None:
    write_sst(tmp_path, "a  \"caf\u00e9 \t1\n it 's 1 \t0\r\n")
    assert read("SST2", tmp_path) == [
        TransferExample('a "caf\u00e9', None, 1),
        TransferExample("it 's 1", None, 0),
    ]
    assert read("SST2", tmp_path, "dev") == [TransferExample("fine", None, 1)]


def test_trec_is_latin_1_and_keeps_case_and_later_colons(tmp_path: Path) -> None:
    write_trec(tmp_path, "ENTY:animal  What : \u00f0  is IT ?\nABBR:exp Who ?\nLOC:city a:b\n")
    assert read("TREC", tmp_path) == [
        TransferExample("What : \u00f0 is IT ?", None, 2),
        TransferExample("Who ?", None, 0),
        TransferExample("a:b", None, 4),
    ]
    assert read("TREC", tmp_path, "test") == [TransferExample("When ?", None, 5)]


def test_trec_ignores_the_fine_class(tmp_path: Path) -> None:
    names = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    write_trec(tmp_path, "".join(f"{name}:{fine} Why ?\n" for name in names for fine in "ab"))
    assert [example.label for example in read("TREC", tmp_path)] == [
        label for label in range(6) for _ in "ab"
    ]
    assert TRANSFER_FILES["TREC"].classes == names


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_mrpc_has_a_header_a_mark_and_no_quoting(tmp_path: Path, mark: str) -> None:
    header = mark + MRPC_HEADER.removeprefix("\ufeff")
    rows = '1\t10\t20\t" A  b\tc "\r\n0\t11\t21\tcaf\u00e9 , "\t"\n'
    write_mrpc(tmp_path, header + rows)
    assert read("MRPC", tmp_path) == [
        TransferExample('" A b', 'c "', 1),
        TransferExample('caf\u00e9 , "', '"', 0),
    ]


def test_mrpc_accepts_carriage_returns_in_the_header(tmp_path: Path) -> None:
    write_mrpc(tmp_path, MRPC_HEADER.replace("\n", "\r\n") + "1\t1\t2\ta\tb\r\n")
    assert read("MRPC", tmp_path) == [TransferExample("a", "b", 1)]


def test_mrpc_without_a_header_is_refused_and_loses_no_example(tmp_path: Path) -> None:
    write_mrpc(tmp_path, "1\t1\t2\ta\tb\n")
    with pytest.raises(DataError, match=r"paraphrase_train\.txt, line 1: expected the header"):
        read("MRPC", tmp_path)
    write_mrpc(tmp_path, "")
    assert read("MRPC", tmp_path) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("no label", "1 tab separated columns, expected sentence and label"),
        ("a\tb\t1", "3 tab separated columns"),
        ("", "1 tab separated columns"),
        ("a\t2", "label '2', expected 0 or 1"),
        ("a\tpositive", "label 'positive', expected 0 or 1"),
        ("a\t", "label '', expected 0 or 1"),
        (" \t1", "an empty sentence beside a label"),
    ],
)
def test_malformed_sst_lines_name_file_and_line(tmp_path: Path, line: str, expected: str) -> None:
    write_sst(tmp_path, f"fine\t1\n{line}\n")
    with pytest.raises(DataError, match=rf"sentiment-train, line 2: {expected}") as caught:
        read("SST2", tmp_path)
    assert "evaluation.data_dir" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("What is it ?", "starts with 'What', expected COARSE:fine with one of ABBR, DESC"),
        ("NUM What is it ?", "starts with 'NUM'"),
        ("num:date What is it ?", "starts with 'num:date'"),
        ("TIME:date What is it ?", "starts with 'TIME:date'"),
        ("", "starts with ''"),
        ("NUM:date", "an empty sentence beside a label"),
        ("NUM:date  ", "an empty sentence beside a label"),
    ],
)
def test_malformed_trec_lines_name_file_and_line(tmp_path: Path, line: str, expected: str) -> None:
    write_trec(tmp_path, f"NUM:date When ?\n{line}\n")
    with pytest.raises(DataError, match=rf"train_5500\.label, line 2: {expected}"):
        read("TREC", tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1\t1\t2\ta", "4 tab separated columns, expected 5"),
        ("1\t1\t2\ta\tb\tc", "6 tab separated columns, expected 5"),
        ("yes\t1\t2\ta\tb", "label 'yes', expected 0 or 1"),
        ("1\t1\t2\t \tb", "an empty sentence beside a label"),
        ("1\t1\t2\ta\t", "an empty sentence beside a label"),
    ],
)
def test_malformed_mrpc_lines_name_file_and_line(tmp_path: Path, line: str, expected: str) -> None:
    write_mrpc(tmp_path, f"{MRPC_HEADER}1\t1\t2\ta\tb\n{line}\n")
    with pytest.raises(DataError, match=rf"paraphrase_train\.txt, line 3: {expected}"):
        read("MRPC", tmp_path)


def test_other_encodings_are_an_error(tmp_path: Path) -> None:
    texts = {"MR/rt-polarity.pos": "caf\u00e9\n", "MR/rt-polarity.neg": "b\n"}
    write(tmp_path, texts, encoding="latin-1")
    with pytest.raises(DataError, match=r"rt-polarity\.pos is not UTF-8 \(byte 3\)"):
        read("MR", tmp_path, "all")


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("MR", "MR/rt-polarity.neg"),
        ("TREC", "TREC/TREC_10.label"),
        ("MRPC", "MRPC/msr_paraphrase_test.txt"),
        ("SST2", "SST/binary/sentiment-test"),
    ],
)
def test_a_missing_file_in_the_folder_is_named(tmp_path: Path, task: str, name: str) -> None:
    write(tmp_path, {"MR/rt-polarity.pos": "a\n", "MR/rt-polarity.neg": "b\n"})
    write_trec(tmp_path, "NUM:date When ?\n")
    write_mrpc(tmp_path, MRPC_HEADER)
    write_sst(tmp_path, "fine\t1\n")
    read_transfer_files(TRANSFER_FILES[task], tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"Cannot read .*{name}: No such file") as caught:
        read_transfer_files(TRANSFER_FILES[task], tmp_path)
    assert "evaluation.data_dir" in str(caught.value)
    assert "EMBEDLLM_DATA_DIR" in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_missing_data_names_every_place(tmp_path: Path, exists: bool) -> None:
    data_dir = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(DataError, match="No data found for SST2") as caught:
        read_transfer_files(TRANSFER_FILES["SST2"], data_dir)
    message = str(caught.value)
    for place in ("senteval/SST/binary", "SST/binary"):
        assert f"  {data_dir / place}\n" in message
    assert "evaluation.data_dir" in message
    assert "EMBEDLLM_DATA_DIR" in message
    assert ("is not a folder" in message) is not exists


def test_the_senteval_folder_goes_before_the_root_itself(tmp_path: Path) -> None:
    write_trec(tmp_path, "NUM:date outer\n")
    assert read("TREC", tmp_path)[0].sentence1 == "outer"
    write_trec(tmp_path / "senteval", "NUM:date inner\n")
    assert read("TREC", tmp_path)[0].sentence1 == "inner"


WORDS = st.text(st.sampled_from(string.ascii_letters + "\"'.,:?!"), min_size=1, max_size=6)
SENTENCES = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)


@given(st.lists(st.tuples(SENTENCES, SENTENCES, st.integers(0, 1)), max_size=8))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]
) -> None:
    root = tmp_path_factory.mktemp("written")
    mrpc = "".join(f"{label}\t1\t2\t{first}\t{second}\n" for first, second, label in rows)
    write_mrpc(root, MRPC_HEADER + mrpc)
    write_sst(root, "".join(f"{first}\t{label}\n" for first, _, label in rows))
    write_trec(root, "".join(f"{('DESC', 'HUM')[n]}:x {first}\n" for first, _, n in rows))
    assert read("MRPC", root) == rows
    assert read("SST2", root) == [(first, None, label) for first, _, label in rows]
    assert read("TREC", root) == [(first, None, (1, 3)[label]) for first, _, label in rows]


def test_real_files_hold_the_documented_traps(data_dir: Path) -> None:
    empty = {
        task: [
            sum(not sentence for sentence, _, label in examples if label == wanted)
            for wanted in (1, 0)
        ]
        for task in BINARY
        for examples in [read(task, data_dir, "all")]
    }
    assert empty == {"MR": [0, 0], "CR": [2, 2], "SUBJ": [0, 0], "MPQA": [1, 2]}
    mrpc = read("MRPC", data_dir)
    assert mrpc[0].sentence1.startswith('Amrozi accused his brother , whom he called " the')
    odd_quotes = sum(example.sentence1.count('"') % 2 for example in mrpc)
    assert odd_quotes > 0
    assert sum("\u00f0" in example.sentence1 for example in read("TREC", data_dir)) == 1


def test_real_binary_files_agree_with_a_plain_reading(data_dir: Path) -> None:
    """SentEval's rule: decode Latin-1, split at every line boundary, then at white space."""
    for task, names in BINARY.items():
        expected = [
            (" ".join(line.split()), None, label)
            for name, label in zip(names, (1, 0), strict=True)
            for line in (data_dir / "senteval" / task / name).read_text("latin-1").splitlines()
        ]
        assert read(task, data_dir, "all") == expected
