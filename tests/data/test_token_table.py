"""The table of token ids: equal to tokenizing, made once, whole or absent, never in the way."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_runs import REPOSITORY, script_environment

from embedllm.config import PromptConfig
from embedllm.data import token_table
from embedllm.data.loader import ContrastiveLoader
from embedllm.data.sources import read_examples
from embedllm.data.token_table import TokenTable, open_token_table
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = build_prompt(PromptConfig(template='This sentence : "{sentence}" means in one word:"'))
TEXTS = [f"text {number}" for number in range(10)]
PATIENCE_SECONDS = 60.0


def _lengths_and_codes(texts: Sequence[str]) -> list[list[int]]:
    """Stands in for a tokenizer; no id list is empty."""
    return [[len(text), *map(ord, text)] for text in texts]


class Counting:
    """A tokenize function that remembers what it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        self.texts += texts
        return _lengths_and_codes(texts)


def _refuse(texts: Sequence[str]) -> list[list[int]]:
    raise AssertionError("tokenized again")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens" / "0123456789abcdef.ids"


@pytest.fixture
def stored(path: Path) -> Path:
    open_token_table(TEXTS, _lengths_and_codes, path)
    return path


def _check(table: TokenTable, texts: Sequence[str] = TEXTS) -> None:
    assert table.look_up(texts) == _lengths_and_codes(texts)


def _is_memory_mapped(array: np.ndarray) -> bool:
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, mmap.mmap)


# --- Equal to tokenizing ------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=40)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=12), chunk=st.integers(1, 5))
@example(texts=["", '"', '""', "'", " ", "\x00", "\ufeff", "e\u0301", "\U0001f600", ""], chunk=3)
def test_equals_the_tokenizer_on_any_text(
    texts: list[str], chunk: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    direct = partial(tokenize, tokenizer=tokenizer, prompt=PROMPT, max_length=64)
    expected = direct(texts)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_table, "_CHUNK_TEXTS", chunk)
        path = Path(folder) / "a.ids"
        for function in (direct, _refuse):
            table = open_token_table(texts, function, path)
            assert table.look_up(texts) == expected
            assert table.look_up(texts[::-1]) == expected[::-1]
            assert len(table) == len(set(texts))
        assert open_token_table(texts, direct, None).look_up(texts) == expected


@settings(max_examples=40)
@given(rows=st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1), min_size=1))
def test_keeps_any_ids(rows: list[list[int]]) -> None:
    ids_of = {str(number): row for number, row in enumerate(rows)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ids"
        open_token_table(ids_of, lambda texts: [ids_of[t] for t in texts], path)
        found = open_token_table(ids_of, _refuse, path).look_up(list(ids_of))
    assert found == rows
    assert {type(number) for row in found for number in row} == {int}


def test_equals_the_tokenizer_on_real_triplets(data_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = data_dir / "nli" / "nli_triplets.csv"
    examples = read_examples(path, max_examples=1500).examples
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "tokenizers" / "opt")
    prompt = build_prompt(
        PromptConfig(template='This sentence : "{sentence}" means in one word:"'), training=True
    )
    direct = partial(tokenize, tokenizer=tokenizer, prompt=prompt, max_length=2048)
    texts = [text for e in examples for text in (e.anchor, e.positive, *e.negatives)]
    assert len(set(texts)) < len(texts)
    open_token_table(texts, direct, tmp_path / "a.ids")
    table = open_token_table(texts, _refuse, tmp_path / "a.ids")
    batches = [
        list(ContrastiveLoader(examples, function, batch_size=256, seed=3))
        for function in (table.look_up, direct)
    ]
    assert batches[0] == batches[1]
    assert sum(batch.num_tokens for batch in batches[0]) > 50_000


# --- Once ---------------------------------------------------------------------------------------


def test_each_distinct_text_is_tokenized_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_table, "_CHUNK_TEXTS", 3)
    tokenize = Counting()
    texts = [*TEXTS, *TEXTS[::-1], "last"]
    table = open_token_table(texts, tokenize, path)
    assert tokenize.texts == [*TEXTS, "last"]
    _check(table, texts)


def test_the_second_time_nothing_is_tokenized(stored: Path) -> None:
    content, changed = stored.read_bytes(), stored.stat().st_mtime_ns
    table = open_token_table(TEXTS, _refuse, stored)
    _check(table)
    assert _is_memory_mapped(table._ids)
    assert (stored.read_bytes(), stored.stat().st_mtime_ns) == (content, changed)
    rows = _lengths_and_codes(TEXTS)
    expected = [number for row in rows for number in row] + [len(row) for row in rows]
    assert np.frombuffer(content[:-32], "<i4").tolist() == expected


def test_a_new_table_is_memory_mapped_too(path: Path) -> None:
    table = open_token_table(TEXTS, _lengths_and_codes, path)
    assert _is_memory_mapped(table._ids)
    # Another process may replace or delete the file.
    path.unlink()
    _check(table)


def test_another_text_is_no_text_of_the_table(stored: Path) -> None:
    with pytest.raises(KeyError):
        open_token_table(TEXTS, _refuse, stored).look_up(["another"])


def test_an_error_of_the_tokenizer_leaves_nothing(path: Path) -> None:
    def fail(texts: Sequence[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_token_table(TEXTS, fail, path)
    assert [p.name for p in path.parent.iterdir()] == [path.with_suffix(".lock").name]
    _check(open_token_table(TEXTS, _lengths_and_codes, path))


# --- Damage -------------------------------------------------------------------------------------


def _flip(place: int) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        place_from_start = place % len(content)
        flipped = bytes([content[place_from_start] ^ 4])
        return content[:place_from_start] + flipped + content[place_from_start + 1 :]

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:1], id="one-byte"),
        pytest.param(lambda content: content[:16], id="shorter-than-a-checksum"),
        pytest.param(lambda content: content[:-32], id="no-checksum"),
        pytest.param(lambda content: content[:-3], id="no-whole-integers"),
        pytest.param(lambda content: content[4:], id="beginning-lost"),
        pytest.param(lambda content: content + content, id="twice"),
        pytest.param(lambda content: bytes(len(content)), id="zeros"),
        pytest.param(_flip(0), id="bit-of-the-first-id"),
        pytest.param(_flip(-40), id="bit-of-a-length"),
        pytest.param(_flip(-1), id="bit-of-the-checksum"),
    ],
)
def test_a_damaged_file_is_made_anew(
    damage: Callable[[bytes], bytes], stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = stored.read_bytes()
    stored.write_bytes(damage(content))
    tokenize = Counting()
    _check(open_token_table(TEXTS, tokenize, stored))
    assert tokenize.texts == TEXTS
    assert stored.read_bytes() == content
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"{stored} is damaged" in warning


def test_what_cannot_be_written_down_rightly_stays_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lose_the_end(handle: int) -> None:
        os.ftruncate(handle, 40)

    monkeypatch.setattr(os, "fsync", lose_the_end)
    _check(open_token_table(TEXTS, _lengths_and_codes, path))
    assert "does not hold what was written to it" in caplog.text
    assert not path.exists()


# --- Folders that take no file ------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_does_not_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    tokenize = Counting()
    table = open_token_table(TEXTS, tokenize, tmp_path / "file" / "tokens" / "a.ids")
    _check(table)
    assert tokenize.texts == TEXTS
    assert not _is_memory_mapped(table._ids)
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert str(tmp_path / "file" / "tokens") in warning
    assert "paths.cache_dir" in warning
    assert "stay in memory" in warning


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_full_disk_does_not_stop(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    _check(open_token_table(TEXTS, _lengths_and_codes, path))
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert os.strerror(number) in warning
    assert [p.name for p in path.parent.iterdir()] == [path.with_suffix(".lock").name]


def test_a_table_in_a_read_only_folder_is_read(
    stored: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(token_table, "_claim", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    _check(open_token_table(TEXTS, _refuse, stored))
    assert "WARNING" not in {record.levelname for record in caplog.records}


# --- Other processes ----------------------------------------------------------------------------

_CHILD = """
import logging, os, signal, sys, time
from pathlib import Path
from embedllm.data import token_table
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
token_table._CHUNK_TEXTS = 4
path, texts = Path(sys.argv[1]), [f"text {number}" for number in range(10)]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def make(texts):
    return [[len(text), *map(ord, text)] for text in texts]
"""
_KILLED_IN_CHUNK = """
def dying(texts):
    if texts[0] == "text 8":
        die()
    return make(texts)
token_table.open_token_table(texts, dying, path)
"""
_KILLED_BEFORE_RENAMING = """
token_table.os.fsync = die
token_table.open_token_table(texts, make, path)
"""
_WAITING_IN_CHUNK = """
def waiting(texts):
    if texts[0] == "text 4":
        print("begun", flush=True)
        while not path.with_suffix(".go").exists():
            time.sleep(0.01)
    return make(texts)
token_table.open_token_table(texts, waiting, path)
"""
_TOLD_NOT_TO = """
def refuse(texts):
    raise AssertionError("tokenized again")
table = token_table.open_token_table(texts, refuse, path)
assert table.look_up(texts) == make(texts)
"""


def _start(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", _CHILD + code, str(path)],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError("".join(lines))


@pytest.mark.parametrize("code", [_KILLED_IN_CHUNK, _KILLED_BEFORE_RENAMING])
def test_a_kill_leaves_nothing_half_done(code: str, path: Path) -> None:
    child = _start(code, path)
    output, _ = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == -signal.SIGKILL, output
    assert path.with_suffix(".part").exists()
    assert not path.exists()
    _check(open_token_table(TEXTS, _lengths_and_codes, path))
    _check(open_token_table(TEXTS, _refuse, path))
    assert {p.suffix for p in path.parent.iterdir()} == {".ids", ".lock"}


def test_processes_that_start_together_tokenize_once(path: Path) -> None:
    first = _start(_WAITING_IN_CHUNK, path)
    _wait_for_line(first, "begun")
    second = _start(_TOLD_NOT_TO, path)
    _wait_for_line(second, "another process is tokenizing the same texts")
    path.with_suffix(".go").touch()
    for process in (first, second):
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, output
    _check(open_token_table(TEXTS, _refuse, path))


def test_the_work_of_a_killed_process_is_taken_over(path: Path) -> None:
    holder = _start(_WAITING_IN_CHUNK, path)
    _wait_for_line(holder, "begun")
    timer = threading.Timer(0.3, holder.kill)
    timer.start()
    table = open_token_table(TEXTS, _lengths_and_codes, path)
    assert holder.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    holder.communicate()
    _check(table)
    assert {p.suffix for p in path.parent.iterdir()} == {".ids", ".lock"}
