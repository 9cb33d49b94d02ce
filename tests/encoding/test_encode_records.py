"""Rows of input files: what they hold, from any place, and what is wrong with bad ones."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encode_files import SUFFIXES, open_files, read_back, write_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedllm.encoding import parquet_rows
from embedllm.encoding.index import build_index, read_index, read_shard
from embedllm.encoding.inputs import find_files
from embedllm.errors import DataError

# Everything that UTF-8 can hold, with what splits lines elsewhere made likely.
CHARACTERS = st.one_of(
    st.characters(codec="utf-8"), st.sampled_from("\r\n\t\",'\\\u2028\u2029\x85\x0b\x0c\x1e\0 ")
)
TEXTS = st.lists(st.text(CHARACTERS, max_size=8), min_size=1, max_size=12)
SAME_FOLDER = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- Round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@given(texts=TEXTS, shard_rows=st.integers(1, 5), backwards=st.booleans())
@SAME_FOLDER
def test_texts_come_back_as_they_are(
    suffix: str, texts: list[str], shard_rows: int, backwards: bool, tmp_path: Path
) -> None:
    ids = [f"id {i}" for i in range(len(texts))]
    path = write_input(tmp_path / f"x.{suffix}", texts, ids, group_rows=3)
    files = open_files(path, id_column="id")
    assert read_back(files, shard_rows=shard_rows, backwards=backwards) == (texts, ids)


@given(texts=TEXTS, shard_rows=st.integers(1, 5), ends=st.booleans(), is_crlf=st.booleans())
@SAME_FOLDER
def test_only_a_line_feed_ends_a_line_of_text(
    texts: list[str], shard_rows: int, ends: bool, is_crlf: bool, tmp_path: Path
) -> None:
    lines = [text.replace("\n", "").rstrip("\r") for text in texts]
    lines[0] = lines[0].lstrip("\ufeff")
    end = "\r\n" if is_crlf else "\n"
    # Without the last line feed an empty last line would be none.
    content = end.join(lines) + (end if ends or not lines[-1] else "")
    path = write_bytes(tmp_path / "x.txt", content.encode())
    assert read_back(open_files(path), shard_rows=shard_rows) == (lines, list(range(len(lines))))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_counted_over_all_files(suffix: str, tmp_path: Path) -> None:
    texts = [f"sentence {i}" for i in range(23)]
    paths = [
        write_input(tmp_path / f"{start:02}.{suffix}", texts[start : start + 5], group_rows=2)
        for start in range(0, 23, 5)
    ]
    for shard_rows in (1, 4, 5, 10, 100):
        found, ids = read_back(open_files(*paths), shard_rows=shard_rows, backwards=True)
        assert found == texts
        assert ids == list(range(23))


def test_an_empty_line_of_text_is_a_row_and_one_of_csv_and_jsonl_is_none(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "x.txt", b"\xef\xbb\xbfa\n\n \n\r\nb")
    assert read_back(open_files(path), shard_rows=2)[0] == ["a", "", " ", "", "b"]
    path = write_bytes(tmp_path / "x.csv", b'\xef\xbb\xbftext,n\r\na,1\r\n\r\n"",2\r\n\r\nb,3')
    assert read_back(open_files(path), shard_rows=2)[0] == ["a", "", "b"]
    path = write_bytes(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"text": "a"}\n\n{"text": ""}\n \n')
    assert read_back(open_files(path), shard_rows=1)[0] == ["a", ""]


def test_formats_may_be_mixed_and_an_empty_text_file_has_no_row(tmp_path: Path) -> None:
    paths = [
        write_input(tmp_path / "a.jsonl", ["a", "b"]),
        write_bytes(tmp_path / "empty.txt", b""),
        write_input(tmp_path / "c.parquet", ["c"]),
        write_input(tmp_path / "d.tsv", ["d\te", "f"]),
    ]
    assert read_back(open_files(*paths), shard_rows=2)[0] == ["a", "b", "c", "d\te", "f"]


# --- Places -------------------------------------------------------------------------------------


def test_the_index_holds_where_each_shard_begins(tmp_path: Path) -> None:
    content = b'text,n\n"a\nb",1\n\nc,2\n"d",3\ne,4\n'
    first = write_bytes(tmp_path / "1.csv", content)
    second = write_bytes(tmp_path / "2.txt", "\u00e9\nx\ny\n".encode())
    files = open_files(first, second)
    index = build_index(files, shard_rows=2, on_bad_row="error")
    assert (index.num_rows, index.num_shards, index.id_type) == (7, 4, "row")
    starts = [(0, content.index(b'"a'), 2), (0, content.index(b'"d"'), 6), (1, 0, 1), (1, 5, 3)]
    assert index.starts == starts
    assert [list(index.rows_of(shard)) for shard in (0, 3)] == [[0, 1], [6]]


def test_reading_shards_in_order_reads_a_parquet_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"sentence {i}" for i in range(5000)]
    path = write_input(tmp_path / "x.parquet", texts, group_rows=5000)
    files = open_files(path)
    index = build_index(files, shard_rows=100, on_bad_row="error")
    starts: list[int] = []

    class Counted(parquet_rows._Batches):
        def __init__(self, *args: Any, first: int, **options: Any) -> None:
            starts.append(first)
            super().__init__(*args, first=first, **options)

    monkeypatch.setattr(parquet_rows, "_Batches", Counted)
    # Two processes: each makes every other shard, the second from the middle on.
    order = [*range(25, 50, 2), *range(0, 25, 2)]
    for shard in order:
        assert read_shard(files, index, shard).texts[0] == f"sentence {shard * 100}"
    assert starts == [0, 0]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for num_rows in (2_000, 20_000):
        path = tmp_path / f"{num_rows}.csv"
        with path.open("w") as file:
            file.write("text\n")
            file.writelines(f"{'words ' * 100}{i}\n" for i in range(num_rows))
        tracemalloc.start()
        files = open_files(path)
        index = build_index(files, shard_rows=500, on_bad_row="error")
        for shard in range(index.num_shards):
            read_shard(files, index, shard)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The file grew by 11 MB.
    assert peaks[1] < peaks[0] + 200_000, peaks


def test_a_file_that_changes_is_not_read_on(tmp_path: Path) -> None:
    path = write_input(tmp_path / "x.txt", ["a", "b", "c"])
    files = open_files(path)
    index = build_index(files, shard_rows=1, on_bad_row="error")
    assert read_shard(files, index, 2).texts == ["c"]
    with path.open("a") as file:
        file.write("d\n")
    with pytest.raises(DataError, match=r"x\.txt has been changed"):
        read_shard(files, index, 2)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"shard_rows": 2}', b"[]", b'{"starts": [[0, 0]]}']
)
def test_a_damaged_index_is_made_again(content: bytes, tmp_path: Path) -> None:
    assert read_index(write_bytes(tmp_path / "index.json", content)) is None


# --- Ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "ids", "expected"),
    [
        ("jsonl", [7, 7, -(2**63)], [7, 7, -(2**63)]),
        ("jsonl", ["a", 2, "\u00fc"], ["a", "2", "\u00fc"]),
        ("parquet", [1, 2, 3], [1, 2, 3]),
        ("csv", ["001", "", "3"], ["001", "", "3"]),
    ],
)
def test_ids_are_whole_numbers_where_all_are(
    suffix: str, ids: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    path = write_input(tmp_path / f"x.{suffix}", ["a", "b", "c"], ids)
    assert read_back(open_files(path, id_column="id"), shard_rows=2)[1] == expected


@pytest.mark.parametrize(
    ("row_id", "fault"),
    [
        ("null", "is null"),
        ("1.5", "is float, expected text or a whole number"),
        ("true", "is bool, expected text or a whole number"),
        (str(2**63), "does not fit into 64 bits"),
        ('"a\\u0000"', "ends in a NUL character"),
        (f'"{"x" * 1025}"', "has 1025 characters, an id at most 1024"),
    ],
)
def test_a_bad_id_is_an_error_always(row_id: str, fault: str, tmp_path: Path) -> None:
    lines = f'{{"id": "1", "text": "a"}}\n{{"id": {row_id}, "text": "b"}}\n'
    files = open_files(write_bytes(tmp_path / "x.jsonl", lines.encode()), id_column="id")
    with pytest.raises(DataError, match=rf"x\.jsonl:2: column 'id' {fault}"):
        build_index(files, shard_rows=1, on_bad_row="error")
    with pytest.raises(DataError, match=rf"x\.jsonl:2: column 'id' {fault}.*leave out id_column"):
        build_index(files, shard_rows=1, on_bad_row="empty")
    # Nobody looks at the column when the rows are numbered.
    assert read_back(open_files(tmp_path / "x.jsonl"), shard_rows=1)[0] == ["a", "b"]


# --- Bad rows -----------------------------------------------------------------------------------

BAD = {
    "x.txt": (
        b"a\nb\xff\nc\n",
        ["x.txt:2: is not UTF-8 (byte 0xff at offset 3 of the file)"],
        ["a", "", "c"],
    ),
    "x.csv": (
        b'text,n\na,1\n\xe9,2\nb\nc,"d\ne,3\n',
        [
            "x.csv:3: column 'text' is not UTF-8 (byte 0xe9 at offset 11 of the file)",
            "x.csv:4: has 1 cells, the header 2",
            "x.csv:5: is not valid CSV, check quotes and line ends",
        ],
        ["a", "", "", "", "e"],
    ),
    "x.jsonl": (
        b'{"text": "a"}\n{"txt": "b"}\n{"text": null}\n{"text": 5}\n{"text": "c"\n["d"]\n'
        b'{"text": "\\ud800"}\n{"text": "\xff"}\n',
        [
            "x.jsonl:2: column 'text' is missing",
            "x.jsonl:3: column 'text' is null",
            "x.jsonl:4: column 'text' is int, expected text",
            "x.jsonl:5: is not valid JSON",
            "x.jsonl:6: is a JSON list, expected one object a line",
        ],
        ["a", "", "", "", "", "", "", ""],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named_or_empty(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, faults, texts = BAD[name]
    files = open_files(write_bytes(tmp_path / name, content))
    num_bad = texts.count("")
    with pytest.raises(DataError) as caught:
        build_index(files, shard_rows=2, on_bad_row="error")
    message = str(caught.value)
    assert message.startswith(f"{num_bad} of {len(texts)} rows are bad:")
    shown = [line.strip() for line in message.splitlines() if "x." in line]
    for line, fault in zip(shown, faults, strict=True):
        assert line.startswith(f"{tmp_path}/{fault}")
    assert "on_bad_row=empty" in message
    assert read_back(files, shard_rows=2, on_bad_row="empty", backwards=True)[0] == texts
    assert f"{num_bad} of {len(texts)} rows are bad:" in caplog.text
    assert build_index(files, shard_rows=2, on_bad_row="empty").num_bad_rows == num_bad


def test_bad_rows_of_parquet_are_named(tmp_path: Path) -> None:
    texts = pa.array([b"ok", None, b"caf\xe9"], pa.binary())
    array = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    pq.write_table(pa.table({"text": array}), tmp_path / "x.parquet")
    files = open_files(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"2 of 3 rows are bad:\n.*:2: column 'text' is null\n.*:3"):
        build_index(files, shard_rows=2, on_bad_row="error")
    assert read_back(files, shard_rows=2, on_bad_row="empty")[0] == ["ok", "", ""]


# --- Inputs -------------------------------------------------------------------------------------


def test_patterns_are_sorted_and_names_come_first(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.csv", "[x].txt", ".hidden.txt"):
        write_bytes(tmp_path / name, b"a\n")
    (tmp_path / "folder.txt").mkdir()
    assert [p.name for p in find_files([f"{tmp_path}/*.txt"])] == ["[x].txt", "a.txt", "b.txt"]
    assert [p.name for p in find_files([f"{tmp_path}/[x].txt"])] == ["[x].txt"]
    listed = find_files([f"{tmp_path}/b.txt", f"{tmp_path}/a.*"])
    assert [p.name for p in listed] == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["no.txt"], r"input=.*no\.txt: no such file \(looked at /"),
        (["*.xyz"], r"input=.*\*\.xyz: no file matches"),
        (["folder"], r"input=.*folder is a folder; give its files, for example .*folder/\*\.jsonl"),
        (["a.txt", "*.txt"], r"input names .*a\.txt twice"),
    ],
)
def test_names_that_lead_nowhere(names: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_bytes(tmp_path / "a.txt", b"a\n")
    with pytest.raises(DataError, match=message):
        find_files([f"{tmp_path}/{name}" for name in names])


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("x.csv", b"", {}, r"the file is empty, it has not even a header"),
        ("x.csv", b"a,b\n1,2\n", {}, r"the column text_column=text is not there; .*: 'a', 'b'"),
        ("x.csv", b"text,text\n1,2\n", {}, r"text_column=text occurs 2 times"),
        ("x.csv", b"t\xe9xt\n1\n", {}, r"x\.csv:1: the header is not UTF-8 .*save the file"),
        ("x.csv", b"text\na\n", {"id_column": "id"}, r"id_column=id is not there"),
        ("x.csv", b"text\n", {}, r"no row to encode in 1 file"),
        ("x.jsonl", b'{"a": 1}\n{"b": 1}\n', {}, r"text_column=text is not there; .*'a', 'b'"),
        ("x.jsonl", b"", {}, r"no row to encode"),
        ("x.txt", b"", {}, r"no row to encode"),
        ("x.txt", b"a\n", {"id_column": "id"}, r"is a text file, which has no columns"),
        ("x.parquet", b"PAR1", {}, r"x\.parquet: not a whole Parquet file"),
        ("x.bin", b"a", {}, r"no format is known by '\.bin'; known are \.txt, .*input_format"),
        ("README", b"a", {}, r"no format is known by 'a name without an ending'"),
    ],
)
def test_files_without_what_is_asked_for(
    name: str, content: bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_bytes(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        build_index(open_files(path, **options), shard_rows=2, on_bad_row="error")


def test_the_format_can_be_given(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "README", b'{"body": "a"}\n')
    files = open_files(path, input_format="jsonl", text_column="body")
    assert read_back(files, shard_rows=1)[0] == ["a"]
    assert read_back(open_files(path, input_format="text"), shard_rows=1)[0] == ['{"body": "a"}']
