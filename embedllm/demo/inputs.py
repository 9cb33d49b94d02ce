"""What people paste and upload, checked before the model sees it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from embedllm.config import DemoConfig
from embedllm.errors import DataError

_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
UPLOAD_SUFFIXES: Final = (".txt", *_DELIMITERS)
_SHOWN: Final = 40


def check_sentence(text: str, config: DemoConfig) -> str:
    """Returns a sentence without the white space around it.

    Raises:
        DataError: It is too long.
    """
    [sentence] = _checked([text.strip()], config, limit=1, key="")
    return sentence


def split_lines(text: str, config: DemoConfig, *, limit_key: str) -> list[str]:
    """Returns the sentences of a pasted text, one a line; empty lines are none.

    Args:
        text: The text.
        config: Its limits.
        limit_key: The key that limits the number of sentences.

    Raises:
        DataError: There are none or too many, or the text or one of them is too long.
    """
    if len(text) > config.max_characters:
        raise DataError(
            f"this text has more than {config.max_characters:,} characters; paste less, upload it "
            "as a file, or start the demo with a larger max_characters"
        )
    return checked_sentences(text.splitlines(), config, limit_key=limit_key)


def checked_sentences(lines: Sequence[str], config: DemoConfig, *, limit_key: str) -> list[str]:
    """Returns the lines that are not empty.

    Raises:
        DataError: There are none or too many, or one is too long.
    """
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise DataError("there is no sentence here; write one on each line")
    return _checked(sentences, config, limit=getattr(config, limit_key), key=limit_key)


def _checked(sentences: list[str], config: DemoConfig, *, limit: int, key: str) -> list[str]:
    if len(sentences) > limit:
        raise DataError(
            f"these are {len(sentences):,} sentences, and at most {limit:,} are taken; leave some "
            f"out, or start the demo with a larger {key}"
        )
    for sentence in sentences:
        if len(sentence) > config.max_sentence_characters:
            raise DataError(
                f"the sentence that begins with {sentence[:_SHOWN]!r} has {len(sentence):,} "
                f"characters, and at most {config.max_sentence_characters:,} are taken; shorten "
                "it, or start the demo with a larger max_sentence_characters"
            )
    return sentences


def read_upload(name: str, content: bytes, config: DemoConfig) -> dict[str, list[str]]:
    """Returns the columns of an uploaded file by name; a text file has one, its lines.

    Args:
        name: The file's name, whose end tells its format.
        content: The file.
        config: Its limits.

    Raises:
        DataError: Too large, of another format, not in UTF-8, or without rows.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix not in UPLOAD_SUFFIXES:
        raise DataError(f"{name} is none of {', '.join(UPLOAD_SUFFIXES)}; save it as one of these")
    if len(content) > config.max_upload_bytes:
        raise DataError(too_large(name, config))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not in UTF-8 (byte {error.start}); save it as UTF-8") from error
    if suffix == ".txt":
        return {"lines": text.splitlines()}
    try:
        header, *rows = csv.reader(io.StringIO(text), delimiter=_DELIMITERS[suffix], strict=True)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{name} cannot be read as a table: {error or 'it is empty'}") from error
    if not rows or not header:
        raise DataError(f"{name} has no rows below its first one, which names the columns")
    return {
        column: [row[place] for row in rows if place < len(row)]
        for place, column in enumerate(header)
    }


def too_large(name: str, config: DemoConfig) -> str:
    """Returns the message about a file of more bytes than are taken."""
    return (
        f"{name} is larger than {config.max_upload_bytes:,} bytes; shorten it, or start the demo "
        "with a larger max_upload_bytes"
    )


def likely_column(columns: dict[str, list[str]]) -> str:
    """Returns the column that holds most text, which is where the sentences are."""
    return max(columns, key=lambda name: sum(map(len, columns[name])))
