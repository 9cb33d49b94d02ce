"""Sets of demonstrations: the paper's 300 and files of one's own.

A file has the fields `sentence` and `word` and may have `source`, which says where a row comes
from: CSV with a header, or JSON lines with one object each. `write_demonstrations` writes the
former. Sentences and words are used verbatim.

The paper's set is data under its authors' terms, so it is read from a data folder and not part of
this package. Its rows 1-99 are sentences of the STS-B training split and rows 100-300 definitions
of the Oxford dictionary (paper_method 2).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from embedllm.config import DemonstrationConfig
from embedllm.demonstrations.records import malformed, read_records
from embedllm.errors import ConfigError, DataError
from embedllm.files import write_atomically
from embedllm.log import get_logger

PAPER: Final = "paper"
PAPER_STSB: Final = "STS-B train"
PAPER_DICTIONARY: Final = "Oxford dictionary"

_NUM_PAPER: Final = 300
_NUM_PAPER_STSB: Final = 99
# `hash_demonstrations` of the released set.
_PAPER_SHA256: Final = "429d45d54400b63aedf1a80bceb654e87fea75ec539e9cfaed73ae9b4b5b5a39"
# Only the search takes other sets than this one.
_OWN_SET: Final = "; another set is used with candidates=FILE"
_COLUMNS: Final = ("sentence", "word", "source")

_log = get_logger(__name__)


def load_demonstrations(
    source: str, *, data_dir: Path | None, key: str = "candidates"
) -> list[DemonstrationConfig]:
    """Returns the demonstrations of a set, in its order, each with its provenance.

    Args:
        source: `paper`, or the path of a CSV or JSONL file.
        data_dir: Folder with the data (`evaluation.data_dir`); only `paper` needs it.
        key: Config key that names the source, for messages.

    Raises:
        DataError: The file cannot be read, is not UTF-8, lacks a column, has an empty field or
            the same demonstration twice; or `paper` is not found or not the released set.
    """
    if source == PAPER:
        return _load_paper(data_dir, key)
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(
            f"{key}={source} is neither {PAPER!r} nor a file (looked at {path.absolute()})"
        )
    return _read(path, key)


def write_demonstrations(path: Path, demonstrations: Sequence[DemonstrationConfig]) -> None:
    """Writes demonstrations as CSV, atomically; `load_demonstrations` gives the same ones back.

    Raises:
        ConfigError: The path does not end in .csv.
        DataError: A text holds half a character (a lone surrogate), which UTF-8 cannot encode.
        CheckpointError: The disk is full or the folder cannot be written.
    """
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"output={path} must end in .csv")
    file = io.StringIO(newline="")
    # The dialect quotes everything, so that line ends inside a text survive.
    writer = csv.writer(file, dialect="unix")
    writer.writerow(_COLUMNS)
    for demonstration in demonstrations:
        row = (demonstration.sentence, demonstration.word, demonstration.source or "")
        writer.writerow(row)
    try:
        content = file.getvalue().encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: a text cannot be written as UTF-8 ({error})") from error
    write_atomically(path, content)


def hash_demonstrations(demonstrations: Iterable[DemonstrationConfig]) -> str:
    r"""Returns the SHA-256 of `sentence TAB word LF` per demonstration, in order, as UTF-8."""
    digest = hashlib.sha256()
    for demonstration in demonstrations:
        digest.update(f"{demonstration.sentence}\t{demonstration.word}\n".encode())
    return digest.hexdigest()


def _load_paper(data_dir: Path | None, key: str) -> list[DemonstrationConfig]:
    if data_dir is None:
        raise DataError(
            f"{key}={PAPER} needs the released file, but no folder is set. Set evaluation.data_dir "
            "or the environment variable EMBEDLLM_DATA_DIR to the folder that holds "
            f"icl/icl_demonstrations.csv{_OWN_SET}"
        )
    name = "icl_demonstrations.csv"
    places = [data_dir / "icl" / name, data_dir / name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DataError(
            f"{key}={PAPER}: not found at {' or '.join(map(str, places))}. Set evaluation.data_dir "
            f"or EMBEDLLM_DATA_DIR to the folder that holds icl/{_OWN_SET}"
        )
    demonstrations = _read(path, key)
    if len(demonstrations) != _NUM_PAPER:
        raise DataError(
            f"{key}={PAPER}: {path} has {len(demonstrations)} demonstrations, the released set "
            f"{_NUM_PAPER}; the copy is truncated or another one. Mend it{_OWN_SET}"
        )
    found = hash_demonstrations(demonstrations)
    if found != _PAPER_SHA256:
        raise DataError(
            f"{key}={PAPER}: the {_NUM_PAPER} demonstrations of {path} have SHA-256 {found}, "
            f"expected {_PAPER_SHA256}; texts or order differ from the released set. Mend it"
            f"{_OWN_SET}"
        )
    for number, demonstration in enumerate(demonstrations):
        demonstration.source = PAPER_STSB if number < _NUM_PAPER_STSB else PAPER_DICTIONARY
    return demonstrations


def _read(path: Path, key: str) -> list[DemonstrationConfig]:
    demonstrations = []
    lines: dict[tuple[str, str], int] = {}
    for record in read_records(path, ("sentence", "word"), key=key):
        sentence = record.text("sentence", path, key=key)
        word = record.text("word", path, key=key)
        first = lines.setdefault((sentence, word), record.line)
        if first != record.line:
            found = f"the same demonstration as on line {first}"
            raise malformed(path, record.line, found, key=key)
        source = record.fields.get("source") or None
        demonstrations.append(DemonstrationConfig(sentence, word, source))
    _warn_about_white_space(demonstrations, path)
    return demonstrations


def _warn_about_white_space(demonstrations: Sequence[DemonstrationConfig], path: Path) -> None:
    """Warns about what `a, b` in a CSV file gives: a word that begins with a space."""
    texts = [text for d in demonstrations for text in (d.sentence, d.word)]
    padded = [text for text in texts if text != text.strip()]
    if padded:
        _log.warning(
            "%s: %d sentences or words begin or end in white space, for example %r; they are used "
            "as they are",
            path,
            len(padded),
            padded[0],
        )
