"""Reads the files of the transfer tasks in SentEval's folder layout.

The tree is the one that SentEval calls `data/downstream`, either as `<data_dir>/senteval` or as
`data_dir` itself. Examples, labels and their order are those of SentEval's readers:

| task | files, in the order in which they are read | labels |
| --- | --- | --- |
| MR | `rt-polarity.pos`, `rt-polarity.neg` | 1 positive, 0 negative |
| CR | `custrev.pos`, `custrev.neg` | 1 positive, 0 negative |
| SUBJ | `subj.objective`, `subj.subjective` | 1 objective, 0 subjective |
| MPQA | `mpqa.pos`, `mpqa.neg` | 1 positive, 0 negative |
| SST2 | `sentiment-train`, `sentiment-dev`, `sentiment-test` | 1 positive, 0 negative |
| TREC | `train_5500.label`, `TREC_10.label` | ABBR 0, DESC 1, ENTY 2, HUM 3, LOC 4, NUM 5 |
| MRPC | `msr_paraphrase_train.txt`, `msr_paraphrase_test.txt` | 1 paraphrase, 0 none |

What the files hold:

- MR, CR, SUBJ, MPQA: one sentence a line and one class a file, so the class that is read first,
  label 1, comes first. An empty line (four in CR, three in MPQA) is an example without words.
- SST2: sentence TAB label.
- TREC: `COARSE:fine question`; the class is the coarse one. Latin-1, not UTF-8.
- MRPC: label, two ids and two sentences, tab separated, without quoting, below a header that
  starts with a byte-order mark. Quotation marks are text, so the csv module is of no use.

Sentences are split on white space and joined with one space, as SentEval's callers do; case is
kept. SentEval reads the first four tasks as Latin-1, but their files are ASCII, and UTF-8 refuses
the copies where the difference would show. It also ends lines at other characters than line
feeds (`str.splitlines`, universal newlines); the published files have none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from embedllm.errors import DataError
from embedllm.evaluation.readers import malformed_line, read_lines

TransferKind = Literal["cross_validation", "train_dev_test", "train_test"]

_BINARY_LABELS: Final = MappingProxyType({"0": 0, "1": 1})
_TREC_CLASSES: Final = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
_TREC_LABELS: Final = MappingProxyType({name: label for label, name in enumerate(_TREC_CLASSES)})
_MRPC_HEADER: Final = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
_BYTE_ORDER_MARK: Final = "\ufeff"


class TransferExample(NamedTuple):
    """A sentence, or two for a pair task, and the number of its class."""

    sentence1: str
    sentence2: str | None
    label: int


@dataclass(frozen=True, kw_only=True)
class TransferFiles:
    """Where one task lies below SentEval's root, and how its files are read.

    Attributes:
        name: name of the task.
        kind: which splits there are; decides how a classifier is trained and tested.
        classes: names of the classes; the position is the label.
        folder: folder of the task, relative to the SentEval root.
        splits: file names of each split, in the order in which they are read.
        read: yields the examples of the files of one split.
        is_pair_task: whether an example has two sentences.
    """

    name: str
    kind: TransferKind
    classes: tuple[str, ...]
    folder: str
    splits: Mapping[str, tuple[str, ...]]
    read: Callable[[Sequence[Path]], Iterator[TransferExample]]
    is_pair_task: bool = False


class TransferContent(NamedTuple):
    """What was read: examples per split, and the files that they came from."""

    examples: dict[str, list[TransferExample]]
    paths: dict[str, tuple[Path, ...]]


def read_transfer_files(files: TransferFiles, data_dir: Path) -> TransferContent:
    """Returns the examples of one task, in file order.

    Args:
        files: an entry of `TRANSFER_FILES`.
        data_dir: folder that holds `senteval/`, or the SentEval root itself.

    Raises:
        DataError: the task's folder or a file in it is missing, or a line is malformed.
    """
    folder = _find_folder(files, data_dir)
    content = TransferContent(examples={}, paths={})
    for split, names in files.splits.items():
        paths = tuple(folder / name for name in names)
        content.examples[split] = list(files.read(paths))
        content.paths[split] = paths
    return content


def _find_folder(files: TransferFiles, data_dir: Path) -> Path:
    candidates = [data_dir / "senteval" / files.folder, data_dir / files.folder]
    for folder in candidates:
        if folder.exists():
            return folder
    places = "\n  ".join(str(folder) for folder in candidates)
    state = "" if data_dir.is_dir() else f" ({data_dir} is not a folder)"
    raise DataError(
        f"No data found for {files.name}{state}. Looked at:\n  {places}\n"
        "Set evaluation.data_dir or the environment variable EMBEDLLM_DATA_DIR to the folder that "
        f"holds senteval/ or {files.folder}/."
    )


def _read_two_classes(paths: Sequence[Path]) -> Iterator[TransferExample]:
    """Yields the sentences of label 1, then those of label 0; the files come in that order."""
    for path, label in zip(paths, (1, 0), strict=True):
        for line in read_lines(path):
            yield TransferExample(_join_words(line), None, label)


def _read_sst(paths: Sequence[Path]) -> Iterator[TransferExample]:
    (path,) = paths
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.split("\t")
        if len(cells) != 2:
            raise malformed_line(
                path, number, f"{len(cells)} tab separated columns, expected sentence and label"
            )
        yield TransferExample(
            _parse_sentence(cells[0], path, number), None, _parse_label(cells[1], path, number)
        )


def _read_trec(paths: Sequence[Path]) -> Iterator[TransferExample]:
    (path,) = paths
    for number, line in enumerate(read_lines(path, encoding="latin-1"), start=1):
        head, _, question = line.strip().partition(" ")
        coarse, colon, _ = head.partition(":")
        if not colon or coarse not in _TREC_LABELS:
            raise malformed_line(
                path,
                number,
                f"starts with {head!r}, expected COARSE:fine with one of {', '.join(_TREC_LABELS)}",
            )
        yield TransferExample(_parse_sentence(question, path, number), None, _TREC_LABELS[coarse])


def _read_mrpc(paths: Sequence[Path]) -> Iterator[TransferExample]:
    (path,) = paths
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.strip("\r").split("\t")
        if number == 1:
            _check_mrpc_header(cells, path)
            continue
        if len(cells) != len(_MRPC_HEADER):
            raise malformed_line(
                path,
                number,
                f"{len(cells)} tab separated columns, expected {len(_MRPC_HEADER)}",
            )
        yield TransferExample(
            _parse_sentence(cells[3], path, number),
            _parse_sentence(cells[4], path, number),
            _parse_label(cells[0], path, number),
        )


def _check_mrpc_header(cells: Sequence[str], path: Path) -> None:
    """Refuses a file whose first line is an example: it would be dropped without a word."""
    found = (cells[0].removeprefix(_BYTE_ORDER_MARK), *cells[1:])
    if found != _MRPC_HEADER:
        raise malformed_line(
            path, 1, f"expected the header {', '.join(_MRPC_HEADER)}, found {', '.join(found)!r}"
        )


def _parse_sentence(text: str, path: Path, number: int) -> str:
    sentence = _join_words(text)
    if not sentence:
        raise malformed_line(path, number, "an empty sentence beside a label")
    return sentence


def _parse_label(text: str, path: Path, number: int) -> int:
    label = _BINARY_LABELS.get(text.strip())
    if label is None:
        raise malformed_line(path, number, f"label {text!r}, expected 0 or 1")
    return label


def _join_words(text: str) -> str:
    return " ".join(text.split())


def _cross_validated(
    name: str, *, ones: str, zeros: str, classes: tuple[str, str] = ("negative", "positive")
) -> TransferFiles:
    return TransferFiles(
        name=name,
        kind="cross_validation",
        classes=classes,
        folder=name,
        splits=MappingProxyType({"all": (ones, zeros)}),
        read=_read_two_classes,
    )


TRANSFER_FILES: Final[Mapping[str, TransferFiles]] = MappingProxyType(
    {
        "MR": _cross_validated("MR", ones="rt-polarity.pos", zeros="rt-polarity.neg"),
        "CR": _cross_validated("CR", ones="custrev.pos", zeros="custrev.neg"),
        "SUBJ": _cross_validated(
            "SUBJ",
            ones="subj.objective",
            zeros="subj.subjective",
            classes=("subjective", "objective"),
        ),
        "MPQA": _cross_validated("MPQA", ones="mpqa.pos", zeros="mpqa.neg"),
        "SST2": TransferFiles(
            name="SST2",
            kind="train_dev_test",
            classes=("negative", "positive"),
            folder="SST/binary",
            splits=MappingProxyType(
                {split: (f"sentiment-{split}",) for split in ("train", "dev", "test")}
            ),
            read=_read_sst,
        ),
        "TREC": TransferFiles(
            name="TREC",
            kind="train_test",
            classes=_TREC_CLASSES,
            folder="TREC",
            splits=MappingProxyType({"train": ("train_5500.label",), "test": ("TREC_10.label",)}),
            read=_read_trec,
        ),
        "MRPC": TransferFiles(
            name="MRPC",
            kind="train_test",
            classes=("no paraphrase", "paraphrase"),
            folder="MRPC",
            splits=MappingProxyType(
                {split: (f"msr_paraphrase_{split}.txt",) for split in ("train", "test")}
            ),
            read=_read_mrpc,
            is_pair_task=True,
        ),
    }
)
