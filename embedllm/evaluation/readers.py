"""Reads the files of the STS tasks: SentEval's folder layout or uniform JSON lines.

Both layouts give the same pairs in the same order:

- `senteval`: the tree that SentEval calls `data/downstream`, either as `<data_dir>/senteval` or
  as `data_dir` itself. STS12 to STS16 have one input and one gold file per subset.
- `jsonl`: one object per line with `task`, `subset`, `sentence1`, `sentence2`, `score` and, for
  STSBenchmark and SICK, `split`, in `<data_dir>/sts` or `data_dir` itself.

Sentences are split on white space and joined with one space, as SentEval's callers do. The texts
hold quotation marks and are tab separated without any quoting, so the csv module is of no use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from embedllm.errors import DataError

Layout = Literal["auto", "senteval", "jsonl"]

# Gold scores of all seven tasks lie in 0-5 (SICK in 1-5).
MAX_SCORE: Final = 5.0


class ScoredPair(NamedTuple):
    """Two sentences and their gold similarity, 0 (unrelated) to 5 (equivalent)."""

    sentence1: str
    sentence2: str
    score: float


class _Columns(NamedTuple):
    """Where a tab separated table keeps a pair; `num` is the least number of columns."""

    sentence1: int
    sentence2: int
    score: int
    num: int
    has_header: bool


_STSB_COLUMNS: Final = _Columns(sentence1=5, sentence2=6, score=4, num=7, has_header=False)
_SICK_COLUMNS: Final = _Columns(sentence1=1, sentence2=2, score=3, num=5, has_header=True)


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """Where one task lies in both layouts.

    Attributes:
        name: the `task` field of the JSON lines.
        subsets: names of the subsets, in SentEval's order.
        senteval: folder (tasks with gold files) or table (others), relative to the SentEval root.
        jsonl: file name of the JSON lines.
        split: the `split` field of the JSON lines; None where the task has a test split only.
            A task with a split has one subset of that name, whatever genres the file names.
        columns: columns of the SentEval table; None for a folder of input and gold files.
    """

    name: str
    subsets: tuple[str, ...]
    senteval: str
    jsonl: str
    split: str | None = None
    columns: _Columns | None = None


class TaskContent(NamedTuple):
    """What was read: pairs per subset, and the files that they came from."""

    pairs: dict[str, list[ScoredPair]]
    paths: dict[str, tuple[Path, ...]]


def _yearly(year: int, *subsets: str) -> TaskFiles:
    return TaskFiles(
        name=f"STS{year}",
        subsets=subsets,
        senteval=f"STS/STS{year}-en-test",
        jsonl=f"sts{year}.jsonl",
    )


def _benchmark(split: str) -> TaskFiles:
    return TaskFiles(
        name="STSBenchmark",
        subsets=(split,),
        senteval=f"STS/STSBenchmark/sts-{split}.csv",
        jsonl=f"stsb_{split}.jsonl",
        split=split,
        columns=_STSB_COLUMNS,
    )


# Subsets and their order are those of SentEval; STS13 has no SMT there (its licence forbids it).
TASK_FILES: Final[Mapping[str, TaskFiles]] = MappingProxyType(
    {
        "STS12": _yearly(
            12, "MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"
        ),
        "STS13": _yearly(13, "FNWN", "headlines", "OnWN"),
        "STS14": _yearly(
            14, "deft-forum", "deft-news", "headlines", "OnWN", "images", "tweet-news"
        ),
        "STS15": _yearly(15, "answers-forums", "answers-students", "belief", "headlines", "images"),
        "STS16": _yearly(
            16, "answer-answer", "headlines", "plagiarism", "postediting", "question-question"
        ),
        "STSBenchmark": _benchmark("test"),
        "SICKRelatedness": TaskFiles(
            name="SICKRelatedness",
            subsets=("test",),
            senteval="SICK/SICK_test_annotated.txt",
            jsonl="sick_test.jsonl",
            split="test",
            columns=_SICK_COLUMNS,
        ),
        "STSBenchmark-dev": _benchmark("dev"),
    }
)


def read_task_files(files: TaskFiles, data_dir: Path, *, layout: Layout = "auto") -> TaskContent:
    """Returns the pairs of one task, in file order.

    Args:
        files: an entry of `TASK_FILES`.
        data_dir: folder that holds the layouts; see the module docstring.
        layout: which layout to read; `auto` takes SentEval's when it has the task, and does not
            fall back on the other one when a file inside it is missing.

    Raises:
        DataError: nothing is found for the task, a file is missing, or a line is malformed.
    """
    looked_at: list[Path] = []
    if layout in ("auto", "senteval"):
        candidates = [data_dir / "senteval" / files.senteval, data_dir / files.senteval]
        looked_at += candidates
        for path in candidates:
            if path.exists():
                return _read_senteval(files, path)
    if layout in ("auto", "jsonl"):
        candidates = [data_dir / "sts" / files.jsonl, data_dir / files.jsonl]
        looked_at += candidates
        for path in candidates:
            if path.exists():
                return _read_jsonl(files, path)
    places = "\n  ".join(str(path) for path in looked_at)
    state = "" if data_dir.is_dir() else f" ({data_dir} is not a folder)"
    raise DataError(
        f"No data found for {files.name} in layout {layout!r}{state}. Looked at:\n  {places}\n"
        "Set evaluation.data_dir or the environment variable EMBEDLLM_DATA_DIR to the folder that "
        "holds senteval/ or sts/."
    )


def _read_senteval(files: TaskFiles, path: Path) -> TaskContent:
    if files.columns is not None:
        (subset,) = files.subsets
        pairs = list(_read_table(path, files.columns))
        return TaskContent(pairs={subset: pairs}, paths={subset: (path,)})
    content = TaskContent(pairs={}, paths={})
    for subset in files.subsets:
        sources = path / f"STS.input.{subset}.txt", path / f"STS.gs.{subset}.txt"
        content.pairs[subset] = list(_read_input_and_gold(*sources))
        content.paths[subset] = sources
    return content


def _read_input_and_gold(input_path: Path, gold_path: Path) -> Iterator[ScoredPair]:
    """Yields the pairs that have a gold score; an empty gold line means that nobody rated it."""
    inputs, golds = read_lines(input_path), read_lines(gold_path)
    if len(inputs) != len(golds):
        raise DataError(
            f"{input_path} has {len(inputs)} lines but {gold_path} has {len(golds)}; line i of one "
            "belongs to line i of the other, so a file is truncated or of another release. "
            "Mend it or point evaluation.data_dir to a complete copy."
        )
    for number, (line, gold) in enumerate(zip(inputs, golds, strict=True), start=1):
        if not gold.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 2:
            raise malformed_line(
                input_path, number, f"{len(cells)} tab separated columns, expected 2 sentences"
            )
        yield ScoredPair(
            _parse_sentence(cells[0], input_path, number),
            _parse_sentence(cells[1], input_path, number),
            _parse_score(gold, gold_path, number),
        )


def _read_table(path: Path, columns: _Columns) -> Iterator[ScoredPair]:
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if columns.has_header and number == 1:
            continue
        cells = line.split("\t")
        if len(cells) < columns.num:
            raise malformed_line(
                path,
                number,
                f"{len(cells)} tab separated columns, expected at least {columns.num}",
            )
        yield ScoredPair(
            _parse_sentence(cells[columns.sentence1], path, number),
            _parse_sentence(cells[columns.sentence2], path, number),
            _parse_score(cells[columns.score], path, number),
        )


def _read_jsonl(files: TaskFiles, path: Path) -> TaskContent:
    content = TaskContent(
        pairs={subset: [] for subset in files.subsets},
        paths=dict.fromkeys(files.subsets, (path,)),
    )
    for number, line in enumerate(read_lines(path), start=1):
        record = _parse_record(line, path, number)
        for key, expected in (("task", files.name), ("split", files.split)):
            if expected is not None and record.get(key, expected) != expected:
                raise malformed_line(
                    path, number, f"{key} is {record[key]!r}, expected {expected!r}"
                )
        # Genres inside a split are not subsets of the task: its Spearman is over all pairs.
        subset = files.split or record["subset"]
        if not isinstance(subset, str) or subset not in content.pairs:
            raise malformed_line(
                path, number, f"subset {subset!r}, expected one of {files.subsets}"
            )
        content.pairs[subset].append(
            ScoredPair(
                _parse_sentence(record["sentence1"], path, number),
                _parse_sentence(record["sentence2"], path, number),
                _parse_score(record["score"], path, number),
            )
        )
    return content


def _parse_record(line: str, path: Path, number: int) -> dict[str, Any]:
    """Returns the JSON object of a line; its values are checked where they are used."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise malformed_line(path, number, f"not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise malformed_line(path, number, f"a JSON {type(record).__name__}, expected an object")
    missing = [key for key in ("subset", "sentence1", "sentence2", "score") if key not in record]
    if missing:
        raise malformed_line(path, number, f"no field {', '.join(missing)}")
    return record


def _parse_sentence(value: object, path: Path, number: int) -> str:
    if not isinstance(value, str):
        raise malformed_line(path, number, f"{value!r} is not a sentence")
    sentence = " ".join(value.split())
    if not sentence:
        raise malformed_line(path, number, "an empty sentence in a pair that has a gold score")
    return sentence


def _parse_score(value: object, path: Path, number: int) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    # Written so that NaN, which json and float() both accept, fails as well.
    if not 0.0 <= score <= MAX_SCORE:
        raise malformed_line(path, number, f"gold score {value!r}, expected a number in 0-5")
    return score


def read_lines(path: Path, *, encoding: str = "utf-8") -> list[str]:
    """Returns the lines of a file, split at line feeds only.

    `str.splitlines` also splits at characters such as U+0085 and U+2028, which occur inside
    sentences of web text, and would shift every following pair against its gold score.
    """
    try:
        text = path.read_bytes().decode(encoding)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"Cannot read {path}: {reason}. Set evaluation.data_dir or the environment variable "
            "EMBEDLLM_DATA_DIR to a complete copy of the data."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}). Convert it or point evaluation.data_dir "
            "to another copy."
        ) from error
    lines = text.split("\n")
    # The piece after the final line feed is not a line; an empty line before it is one.
    return lines[:-1] if lines[-1] == "" else lines


def malformed_line(path: Path, number: int, found: str) -> DataError:
    """Returns the error for a line; `found` says what is wrong with it."""
    return DataError(
        f"{path}, line {number}: {found}. Mend the file or point evaluation.data_dir to another "
        "copy."
    )
