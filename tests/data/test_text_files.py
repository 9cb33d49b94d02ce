from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
from source_files import skip_bad, to_lists, write_bytes, write_csv

from embedllm.data.schema import ColumnNames
from embedllm.data.sources import read_examples
from embedllm.errors import DataError

MAX_READ_SECONDS = 5.0  # takes about 0.2 s; generous for busy machines


# --- CSV ---------------------------------------------------------------------------------------


def test_csv_byte_order_mark_and_blank_lines_are_not_data(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "x.csv", b"\xef\xbb\xbfsent0,sent1\r\na,b\r\n\r\nc,d")
    result = read_examples(path)
    assert to_lists(result) == [["a", "b"], ["c", "d"]]
    assert result.num_rows == 2


def test_csv_lines_are_those_on_which_records_start(tmp_path: Path) -> None:
    content = b'sent0,sent1\n"a\nb\nc",d\n,e\n"f\n",\ng\nh,i,j\nk,l\n'
    texts, bad = skip_bad(write_bytes(tmp_path / "x.csv", content))
    assert texts == [["a\nb\nc", "d"], ["k", "l"]]
    assert bad == [
        "x.csv:5: column 'sent0' is empty",
        "x.csv:6: column 'sent1' is empty",
        "x.csv:8: has 1 cells, the header 2",
        "x.csv:9: has 3 cells, the header 2",
    ]


def test_csv_broken_quotes_cost_only_their_own_line(tmp_path: Path) -> None:
    content = b'sent0,sent1\na,b\n"c"x,d\ne,f\ng,"h\ni,j\nk,l\n'
    path = write_bytes(tmp_path / "x.csv", content)
    with pytest.raises(DataError, match=r"2 of 6 rows (.*\n)*.*x\.csv:3: is not valid CSV"):
        read_examples(path)
    texts, bad = skip_bad(path)
    assert texts == [["a", "b"], ["e", "f"], ["i", "j"], ["k", "l"]]
    assert [row.partition(" (")[0] for row in bad] == [
        "x.csv:3: is not valid CSV, check quotes and line ends",
        "x.csv:5: is not valid CSV, check quotes and line ends",
    ]


def test_csv_unclosed_quote_before_many_rows(tmp_path: Path) -> None:
    # The swallowed text is longer than the csv module's limit for one field.
    rows = b"some words,some more words\n" * 20_000
    path = write_bytes(tmp_path / "x.csv", b'sent0,sent1\na,"b\n' + rows)
    result = read_examples(path, on_bad_row="skip")
    assert (len(result.examples), result.num_bad, result.bad_rows[0].line) == (20_000, 1, 2)


def test_csv_wrong_encoding_names_file_line_column_and_byte(tmp_path: Path) -> None:
    content = 'sent0,sent1,hard_neg\na,b,c\n"x\ny",caf\xe9,d\ne,f,na\xefve \xfc\ng,h,i\n'
    path = write_bytes(tmp_path / "x.csv", content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_examples(path)
    offset = content.index("\xe9")
    bad = f"{path}:3: column 'sent1' is not UTF-8 (byte 0xe9 at offset {offset} of the file)"
    assert bad in str(caught.value)
    assert "2 of 4 rows" in str(caught.value)
    assert "must be UTF-8" in str(caught.value)
    texts, bad_rows = skip_bad(path)
    assert texts == [["a", "b", "c"], ["g", "h", "i"]]
    assert (
        f"x.csv:5: column 'hard_neg' is not UTF-8 (byte 0xef at offset {content.index('na') + 2}"
        in bad_rows[1]
    )


def test_csv_byte_offset_counts_the_byte_order_mark(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "x.csv", b"\xef\xbb\xbfsent0,sent1\na,\xff\nb,c\n")
    assert skip_bad(path)[1] == [
        "x.csv:2: column 'sent1' is not UTF-8 (byte 0xff at offset 17 of the file)"
    ]


def test_csv_column_named_negatives_needs_an_explicit_choice(tmp_path: Path) -> None:
    header = ["anchor", "positive", "negatives"]
    path = write_csv(tmp_path / "x.csv", [["a", "b", '["c", "d"]']], header)
    with pytest.raises(DataError, match=r"data\.columns\.negatives=\[negatives\]"):
        read_examples(path)
    chosen = read_examples(path, columns=ColumnNames("anchor", "positive", ("negatives",)))
    assert to_lists(chosen) == [["a", "b", '["c", "d"]']]


def test_nli_triplets(data_dir: Path) -> None:
    path = data_dir / "nli" / "nli_triplets.csv"
    start = time.process_time()
    result = read_examples(path)
    seconds = time.process_time() - start
    assert (len(result.examples), result.num_bad) == (49_663, 0)
    assert {len(example.negatives) for example in result.examples} == {1}
    with path.open(encoding="utf-8", newline="") as file:
        assert to_lists(result) == list(csv.reader(file))[1:]
    assert seconds < MAX_READ_SECONDS


# --- JSON lines --------------------------------------------------------------------------------


def test_json_lines_bad_rows(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"sent0": "a", "sent1": "b", "hard_neg": "c", "id": 1}',
        b"",
        b'{"sent0": "a", "sent1": null, "hard_neg": "c"}',
        b'{"sent0": "a", "sent1": "b"}',
        b'{"sent0": "a", "sent1": 7, "hard_neg": "c"}',
        b'{"sent0": "a", "sent1": NaN, "hard_neg": "c"}',
        b'{"sent0": "a", "sent1": "b", ',
        b'["a", "b", "c"]',
        b'{"sent0": "a", "sent1": "b", "hard_neg": "\\ud83d"}',
        b"[" * 100_000,
        b'{"hard_neg": "f", "sent1": "e", "sent0": "d"}',
    ]
    texts, bad = skip_bad(write_bytes(tmp_path / "x.jsonl", b"\n".join(lines)))
    assert texts == [["a", "b", "c"], ["d", "e", "f"]]
    assert [row.partition(" (")[0] for row in bad] == [
        "x.jsonl:3: column 'sent1' is null",
        "x.jsonl:4: column 'hard_neg' is missing",
        "x.jsonl:5: column 'sent1' is int, expected text",
        "x.jsonl:6: column 'sent1' is float, expected text",
        "x.jsonl:7: is not valid JSON",
        "x.jsonl:8: is a JSON list, expected one object a line",
        "x.jsonl:9: column 'hard_neg' has half of a surrogate pair",
        "x.jsonl:10: is not valid JSON",
    ]


def test_json_lines_wrong_encoding(tmp_path: Path) -> None:
    lines = [
        b'{"anchor": "a", "positive": "b", "negatives": ["c"]}\n',
        b'{"anchor": "a", "positive": "b", "negatives": ["c", "caf\xe9"]}\n',
        b'{"anchor": "\xfc", "positive": "b", \n',
    ]
    texts, bad = skip_bad(write_bytes(tmp_path / "x.jsonl", b"".join(lines)))
    assert texts == [["a", "b", "c"]]
    first, second = len(lines[0]) + lines[1].index(0xE9), len(lines[0] + lines[1]) + 12
    assert bad == [
        f"x.jsonl:2: column 'negatives' is not UTF-8 (byte 0xe9 at offset {first} of the file)",
        f"x.jsonl:3: is not UTF-8 (byte 0xfc at offset {second} of the file)",
    ]


def test_json_lines_list_of_negatives(tmp_path: Path) -> None:
    rows: list[Any] = [["c"], ["c", "d"], [], None, ["c", " "], ["c", 1], "text"]
    records = [{"anchor": "a", "positive": "b", "negatives": row} for row in rows]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    texts, bad = skip_bad(path)
    assert texts == [["a", "b", "c"], ["a", "b", "c", "d"], ["a", "b"], ["a", "b", "text"]]
    assert bad == [
        "x.jsonl:4: column 'negatives' is null",
        "x.jsonl:5: column 'negatives[1]' is empty",
        "x.jsonl:6: column 'negatives[1]' is int, expected text",
    ]


def test_json_lines_columns_are_those_of_the_first_rows_together(tmp_path: Path) -> None:
    # A first row without negatives must not make the negatives of all others disappear.
    pair, triplet = '{"sent0": "a", "sent1": "b"}', '{"sent0": "a", "sent1": "b", "hard_neg": "c"}'
    path = write_bytes(tmp_path / "x.jsonl", f"oops\n{pair}\n{triplet}\n".encode())
    texts, bad = skip_bad(path)
    assert texts == [["a", "b", "c"]]
    assert bad[1] == "x.jsonl:2: column 'hard_neg' is missing"

    path = write_bytes(tmp_path / "late.jsonl", f"{pair}\n".encode() * 1000 + triplet.encode())
    texts, bad = skip_bad(path)
    assert len(texts) == 1000
    assert bad[0].startswith("late.jsonl:1001: column 'hard_neg' is in none of the first 1000 rows")
    explicit = read_examples(path, columns=ColumnNames("sent0", "sent1"))
    assert (len(explicit.examples), explicit.num_bad) == (1001, 0)
