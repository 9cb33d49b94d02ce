from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedllm.errors import DataError
from embedllm.evaluation.readers import TASK_FILES, ScoredPair, read_task_files


def write_sts13(root: Path, inputs: dict[str, str], golds: dict[str, str]) -> Path:
    """Writes STS13 in SentEval's layout; subsets that are not given get one plain pair."""
    folder = root / "STS" / "STS13-en-test"
    folder.mkdir(parents=True)
    for subset in TASK_FILES["STS13"].subsets:
        (folder / f"STS.input.{subset}.txt").write_bytes(inputs.get(subset, "a\tb\n").encode())
        (folder / f"STS.gs.{subset}.txt").write_bytes(golds.get(subset, "1\n").encode())
    return folder


def write_lines(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def make_record(**changes: object) -> dict[str, object]:
    record: dict[str, object] = {
        "task": "STS13",
        "subset": "FNWN",
        "sentence1": "a",
        "sentence2": "b",
        "score": 1.0,
    }
    return record | changes


def test_pairs_with_an_empty_gold_line_are_skipped(tmp_path: Path) -> None:
    write_sts13(
        tmp_path,
        {"FNWN": "a1\tb1\na2\tb2\na3\tb3\na4\tb4\n"},
        {"FNWN": "\n2.500\n  \n4\n"},
    )
    content = read_task_files(TASK_FILES["STS13"], tmp_path)
    assert content.pairs["FNWN"] == [ScoredPair("a2", "b2", 2.5), ScoredPair("a4", "b4", 4.0)]


def test_an_empty_gold_line_at_the_end_still_counts_as_a_line(tmp_path: Path) -> None:
    write_sts13(tmp_path, {"FNWN": "a1\tb1\na2\tb2\n"}, {"FNWN": "3\n\n"})
    content = read_task_files(TASK_FILES["STS13"], tmp_path)
    assert content.pairs["FNWN"] == [ScoredPair("a1", "b1", 3.0)]


def test_quotes_white_space_and_carriage_returns(tmp_path: Path) -> None:
    write_sts13(
        tmp_path,
        {"FNWN": '"  he   said \t she said " no  "\r\n" open\tclosed\n'},
        {"FNWN": "0\r\n5\n"},
    )
    content = read_task_files(TASK_FILES["STS13"], tmp_path)
    assert content.pairs["FNWN"] == [
        ScoredPair('" he said', 'she said " no "', 0.0),
        ScoredPair('" open', "closed", 5.0),
    ]


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\x0b", "\x1c"])
def test_only_line_feeds_end_a_line(tmp_path: Path, separator: str) -> None:
    write_sts13(tmp_path, {"FNWN": f"a{separator}a\tb\nc\td\n"}, {"FNWN": "1\n2\n"})
    content = read_task_files(TASK_FILES["STS13"], tmp_path)
    assert content.pairs["FNWN"] == [ScoredPair("a a", "b", 1.0), ScoredPair("c", "d", 2.0)]


def test_stsb_table_is_read_without_quoting(tmp_path: Path) -> None:
    path = tmp_path / "senteval" / "STS" / "STSBenchmark" / "sts-test.csv"
    path.parent.mkdir(parents=True)
    path.write_text('g\ts\t2012\t1\t2.750\t" a  b\tc " d\ng\ts\t2012\t2\t0\te\tf "\textra\n')
    content = read_task_files(TASK_FILES["STSBenchmark"], tmp_path)
    expected = [ScoredPair('" a b', 'c " d', 2.75), ScoredPair("e", 'f "', 0.0)]
    assert content.pairs == {"test": expected}
    assert content.paths == {"test": (path,)}


def test_sick_table_has_a_header_and_keeps_case(tmp_path: Path) -> None:
    path = tmp_path / "SICK" / "SICK_test_annotated.txt"
    path.parent.mkdir()
    path.write_text(
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
        "6\tThere is A\tB b\t3.3\tNEUTRAL\n"
    )
    content = read_task_files(TASK_FILES["SICKRelatedness"], tmp_path)
    assert content.pairs == {"test": [ScoredPair("There is A", "B b", 3.3)]}


@pytest.mark.parametrize("folder", ["", "sts"])
def test_json_lines_in_both_places_keep_the_order_of_subsets(tmp_path: Path, folder: str) -> None:
    write_lines(
        tmp_path / folder / "sts13.jsonl",
        make_record(subset="OnWN", sentence1="x  y"),
        make_record(subset="FNWN", score=2),
        make_record(subset="OnWN", sentence1="z"),
        make_record(subset="headlines"),
    )
    content = read_task_files(TASK_FILES["STS13"], tmp_path)
    assert list(content.pairs) == ["FNWN", "headlines", "OnWN"]
    assert content.pairs["OnWN"] == [ScoredPair("x y", "b", 1.0), ScoredPair("z", "b", 1.0)]
    assert content.pairs["FNWN"] == [ScoredPair("a", "b", 2.0)]


def test_genres_of_a_split_are_not_subsets(tmp_path: Path) -> None:
    first = make_record(task="STSBenchmark", subset="main-news/MSRpar", split="dev")
    second = make_record(task="STSBenchmark", subset="main-captions/images", split="dev", score=3)
    write_lines(tmp_path / "stsb_dev.jsonl", first, second, first)
    content = read_task_files(TASK_FILES["STSBenchmark-dev"], tmp_path)
    assert [pair.score for pair in content.pairs["dev"]] == [1.0, 3.0, 1.0]
    assert list(content.pairs) == ["dev"]


def test_senteval_is_preferred_and_layout_chooses(tmp_path: Path) -> None:
    write_sts13(tmp_path / "senteval", {}, {})
    write_lines(tmp_path / "sts" / "sts13.jsonl", make_record(score=4.5))
    files = TASK_FILES["STS13"]
    assert read_task_files(files, tmp_path).pairs["FNWN"] == [ScoredPair("a", "b", 1.0)]
    by_layout = read_task_files(files, tmp_path, layout="jsonl")
    assert by_layout.pairs["FNWN"] == [ScoredPair("a", "b", 4.5)]
    shutil.rmtree(tmp_path / "senteval")
    assert read_task_files(files, tmp_path).pairs["FNWN"] == [ScoredPair("a", "b", 4.5)]
    with pytest.raises(DataError, match="layout 'senteval'"):
        read_task_files(files, tmp_path, layout="senteval")


def test_a_missing_file_inside_the_senteval_folder_is_no_reason_to_fall_back(
    tmp_path: Path,
) -> None:
    folder = write_sts13(tmp_path, {}, {})
    write_lines(tmp_path / "sts13.jsonl", make_record())
    missing = folder / "STS.gs.headlines.txt"
    missing.unlink()
    with pytest.raises(DataError, match=r"Cannot read .*STS\.gs\.headlines\.txt") as caught:
        read_task_files(TASK_FILES["STS13"], tmp_path)
    assert "evaluation.data_dir" in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_missing_data_names_every_place(tmp_path: Path, exists: bool) -> None:
    data_dir = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(DataError) as caught:
        read_task_files(TASK_FILES["STS13"], data_dir)
    message = str(caught.value)
    for place in ("senteval/STS/STS13-en-test", "STS/STS13-en-test", "sts/sts13.jsonl"):
        assert str(data_dir / place) in message
    assert "evaluation.data_dir" in message
    assert "EMBEDLLM_DATA_DIR" in message
    assert ("is not a folder" in message) is not exists


def test_different_numbers_of_lines_are_an_error(tmp_path: Path) -> None:
    write_sts13(tmp_path, {"OnWN": "a\tb\nc\td\n"}, {"OnWN": "1\n"})
    with pytest.raises(DataError, match=r"input\.OnWN\.txt has 2 lines but .* has 1;"):
        read_task_files(TASK_FILES["STS13"], tmp_path)


@pytest.mark.parametrize(
    ("line", "gold", "expected"),
    [
        ("only one", "1", r"input\.FNWN\.txt, line 2: 1 tab separated columns"),
        ("a\tb\tc", "1", r"input\.FNWN\.txt, line 2: 3 tab separated columns"),
        ("a\t  ", "1", r"input\.FNWN\.txt, line 2: an empty sentence"),
        ("a\tb", "high", r"gs\.FNWN\.txt, line 2: gold score 'high'"),
        ("a\tb", "nan", r"gs\.FNWN\.txt, line 2: gold score 'nan'"),
        ("a\tb", "5.1", r"gs\.FNWN\.txt, line 2: gold score '5.1', expected a number in 0-5"),
    ],
)
def test_malformed_lines_name_file_and_line(
    tmp_path: Path, line: str, gold: str, expected: str
) -> None:
    write_sts13(tmp_path, {"FNWN": f"a\tb\n{line}\n"}, {"FNWN": f"1\n{gold}\n"})
    with pytest.raises(DataError, match=expected):
        read_task_files(TASK_FILES["STS13"], tmp_path)


def test_a_short_table_row_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "STS" / "STSBenchmark" / "sts-dev.csv"
    path.parent.mkdir(parents=True)
    path.write_text("g\ts\t2012\t1\t2.750\ta\tb\ng\ts\t2012\t1\t2.7")
    with pytest.raises(DataError, match=r"sts-dev\.csv, line 2: 5 tab separated columns"):
        read_task_files(TASK_FILES["STSBenchmark-dev"], tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"task": "STS13", "subset"', "not valid JSON"),
        ("", "not valid JSON"),
        ("[1]", "a JSON list, expected an object"),
        ('{"task": "STS13", "subset": "FNWN", "sentence1": "a"}', "no field sentence2, score"),
        (json.dumps(make_record(task="STS14")), "task is 'STS14', expected 'STS13'"),
        (json.dumps(make_record(subset="SMT")), "subset 'SMT'"),
        (json.dumps(make_record(subset=["FNWN"])), r"subset \['FNWN'\]"),
        (json.dumps(make_record(sentence1=None)), "None is not a sentence"),
        (json.dumps(make_record(score=True)), "gold score True"),
        (json.dumps(make_record(score=None)), "gold score None"),
        (json.dumps(make_record(score=10**400)), "gold score 1000"),
    ],
)
def test_malformed_json_lines_name_file_and_line(tmp_path: Path, text: str, expected: str) -> None:
    path = write_lines(tmp_path / "sts13.jsonl", make_record())
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(DataError, match=rf"sts13\.jsonl, line 2: {expected}"):
        read_task_files(TASK_FILES["STS13"], tmp_path)


def test_another_split_is_malformed(tmp_path: Path) -> None:
    record = make_record(task="STSBenchmark", split="train")
    write_lines(tmp_path / "stsb_dev.jsonl", record)
    with pytest.raises(DataError, match="line 1: split is 'train', expected 'dev'"):
        read_task_files(TASK_FILES["STSBenchmark-dev"], tmp_path)


def test_other_encodings_are_an_error(tmp_path: Path) -> None:
    folder = write_sts13(tmp_path, {}, {})
    (folder / "STS.input.FNWN.txt").write_bytes("caf\u00e9\tb\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"STS\.input\.FNWN\.txt is not UTF-8 \(byte 3\)"):
        read_task_files(TASK_FILES["STS13"], tmp_path)
