"""Sets of demonstrations: what is written is read back, and bad files are named by the key."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedllm.config import DemonstrationConfig
from embedllm.demonstrations.sets import (
    hash_demonstrations,
    load_demonstrations,
    write_demonstrations,
)
from embedllm.errors import ConfigError, DataError

# All of Unicode but lone surrogates, with what CSV has to quote more often than by chance.
_TEXTS = st.text(
    st.one_of(
        st.sampled_from("\"',;\n\r\t\x00\x85\u2028\ufeff\U0001f600"), st.characters(codec="utf-8")
    )
).filter(str.strip)
_DEMONSTRATIONS = st.lists(
    st.builds(DemonstrationConfig, _TEXTS, _TEXTS, st.none() | _TEXTS),
    min_size=1,
    unique_by=lambda d: (d.sentence, d.word),
)


def _write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def _load(source: str) -> list[DemonstrationConfig]:
    return load_demonstrations(source, data_dir=None)


def _message(source: str, data_dir: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_demonstrations(source, data_dir=data_dir)
    assert "candidates" in str(caught.value)
    return str(caught.value)


# --- Files --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(demonstrations=_DEMONSTRATIONS)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, demonstrations: list[DemonstrationConfig]
) -> None:
    path = tmp_path_factory.mktemp("sets") / "set.csv"
    write_demonstrations(path, demonstrations)
    assert _load(str(path)) == demonstrations


def test_an_empty_source_is_none(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    write_demonstrations(path, [DemonstrationConfig("A dog runs.", "Running", "")])
    assert _load(str(path)) == [DemonstrationConfig("A dog runs.", "Running", None)]


def test_other_columns_and_their_order_do_not_matter(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.CSV", '\ufeffword,x,sentence\r\nVenison,1,"a, b"\r\n\r\n')
    assert _load(source) == [DemonstrationConfig("a, b", "Venison", None)]


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"sentence": "a\u2028b", "word": "C", "source": "here", "rank": 1},
        {"word": "D", "sentence": "a\u2028b", "source": None},
    ]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert _load(_write(tmp_path / "a.jsonl", lines)) == [
        DemonstrationConfig("a\u2028b", "C", "here"),
        DemonstrationConfig("a\u2028b", "D", None),
    ]


def test_white_space_is_kept_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = _write(tmp_path / "a.csv", "sentence,word\na dog, Dog\n")
    assert _load(source) == [DemonstrationConfig("a dog", " Dog")]
    assert "1 sentences or words begin or end in white space, for example ' Dog'" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        (
            "a.csv",
            "sentence,source\na,b\n",
            "no column 'word'; the header has 'sentence', 'source'",
        ),
        ("a.csv", "sentence,word,word\na,b,c\n", "a column name occurs twice"),
        ("a.csv", "sentence,word\na,b\nc, \n", "line 3: 'word' is empty"),
        ("a.csv", "sentence,word\na,b\n,c\n", "line 3: 'sentence' is empty"),
        ("a.csv", 'sentence,word\n"a\nb",c\nd,e,f\n', "line 4: 3 fields, the header has 2"),
        ("a.csv", 'sentence,word\na,b\n"c,d\n', "line 3: is not valid CSV"),
        ("a.csv", "sentence,word\na,b\nc,d\na,b\n", "line 4: the same demonstration as on line 2"),
        ("a.csv", "sentence,word\n", "has no rows"),
        ("a.csv", "", "has no rows"),
        ("a.csv", b"sentence,word\ncaf\xe9,b\n", "is not UTF-8 (byte 0xe9 at offset 17)"),
        ("a.jsonl", '{"sentence": "a"}\n', "line 1: has no field 'word'"),
        ("a.jsonl", '{"sentence": "a", "word": 1}\n', "line 1: 'word' is no text"),
        ("a.jsonl", '\n["a", "b"]\n', "line 2: is a JSON list, expected an object"),
        ("a.jsonl", '{"sentence": "a", "word": \n', "line 1: is not valid JSON"),
        ("a.jsonl", '{"sentence": "a", "word": "\\ud800"}\n', "line 1: 'word' holds half a char"),
        ("a.txt", "a", "allowed are files that end in .csv or .jsonl"),
    ],
)
def test_what_is_wrong_with_a_file(
    name: str, content: str | bytes, part: str, tmp_path: Path
) -> None:
    message = _message(_write(tmp_path / name, content))
    assert part in message
    assert str(tmp_path / name) in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    message = _message(str(tmp_path / "no.csv"))
    assert "is neither 'paper' nor a file" in message


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.csv"):
        write_demonstrations(tmp_path / "a.jsonl", [])
    with pytest.raises(DataError, match="cannot be written as UTF-8"):
        write_demonstrations(tmp_path / "a.csv", [DemonstrationConfig("\ud800", "b")])
    assert list(tmp_path.iterdir()) == []


# --- The paper's set ----------------------------------------------------------------------------


def test_the_papers_set(data_dir: Path) -> None:
    demonstrations = load_demonstrations("paper", data_dir=data_dir)
    assert load_demonstrations("paper", data_dir=data_dir / "icl") == demonstrations
    assert len(demonstrations) == 300
    sources = [d.source for d in demonstrations]
    assert sources == ["STS-B train"] * 99 + ["Oxford dictionary"] * 201
    # paper_method 2: facts of the released file, and four of the demonstrations chosen from it.
    assert len({d.word for d in demonstrations}) == 278
    assert sum(d.word == "Music" for d in demonstrations) == 8
    pairs = {(d.sentence, d.word): d.source for d in demonstrations}
    assert pairs["A man is smoking.", "Smoking"] == "STS-B train"
    assert pairs["A jockey riding a horse.", "Equestrian"] == "STS-B train"
    assert pairs["meat from a deer.", "Venison"] == "Oxford dictionary"
    assert pairs["relating to switzerland or its people.", "Swiss"] == "Oxford dictionary"


def test_the_papers_set_is_the_released_file(data_dir: Path) -> None:
    # The authors' own file has one finished prompt a line, blanks as underscores.
    lines = (data_dir / "icl" / "icl_examples.txt").read_text(encoding="utf-8").splitlines()
    prompts = [
        f'This sentence : "{d.sentence}" means in one word:"{d.word}".'
        'This sentence : "*sent 0*" means in one word:"'
        for d in load_demonstrations("paper", data_dir=data_dir)
    ]
    assert [line.replace("_", " ") for line in lines] == prompts


def test_the_papers_set_without_a_folder(tmp_path: Path) -> None:
    message = _message("paper")
    assert "EMBEDLLM_DATA_DIR" in message
    assert "evaluation.data_dir" in message
    message = _message("paper", tmp_path)
    assert str(tmp_path / "icl" / "icl_demonstrations.csv") in message
    assert str(tmp_path / "icl_demonstrations.csv") in message


def test_another_set_is_not_taken_for_the_papers(tmp_path: Path, data_dir: Path) -> None:
    with (data_dir / "icl" / "icl_demonstrations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    path = tmp_path / "icl_demonstrations.csv"
    for changed, part in (
        (rows[:-1], "has 299 demonstrations, the released set 300"),
        ([*rows[:-1], [rows[-1][0], "Pear"]], "have SHA-256 "),
        ([rows[0], *rows[:0:-1]], "have SHA-256 "),
    ):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(changed)
        assert part in _message("paper", tmp_path)
        # As a set of one's own it is fine.
        assert len(_load(str(path))) == len(changed) - 1


def test_the_hash_sees_texts_and_order_but_not_the_source() -> None:
    first, second = DemonstrationConfig("a", "b"), DemonstrationConfig("c", "d")
    expected = hash_demonstrations([first, second])
    assert expected == hash_demonstrations([DemonstrationConfig("a", "b", "x"), second])
    assert expected != hash_demonstrations([second, first])
    assert expected != hash_demonstrations([first, DemonstrationConfig("c", "e")])
