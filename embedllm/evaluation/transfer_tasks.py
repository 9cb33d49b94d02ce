"""The transfer tasks by name: loads them and verifies that they are the published ones.

`transfer_checksums.json` keeps, per task and split, the number of examples, how many each class
has, and a SHA-256 over the parsed content (`fingerprint_split`), so that a truncated or otherwise
tokenized copy is noticed before a model is loaded. The file was made, and is made again after a
change of that definition, by

    json.dump({task.name: fingerprint_transfer_task(task) for task in tasks}, file, indent=2)

with tasks loaded from a trusted copy under `verify="counts"`.

Order. A split has its examples in file order. SentEval encodes and classifies them in another
one: each split is sorted, for little padding, before it is encoded, and is never put back. The
sorted order is the one that folds, the 5% held out for early stopping and the batches of the
classifier are drawn from, so with the same seeds only the sorted order gives the same folds.
`senteval_order` returns the permutation. Per task:

| task | sorted on its own | by |
| --- | --- | --- |
| MR, CR, SUBJ, MPQA | `all` (both classes together) | words, label |
| SST2 | `train`, `dev`, `test` | words, label |
| TREC | `train`, `test` | words, label |
| MRPC | `train`, `test` | words of sentence 1, words of sentence 2, label |

Words are pieces between white space, of which an empty sentence has none. The sort is stable:
examples that are equal in these numbers stay in file order, and of equal length label 0 comes
first. The order of a dev or test split changes no accuracy.

Empty sentences. Seven examples (four of CR, three of MPQA) have no words; they are "" in a split.
SentEval's own examples of encoders embed "." for them, which `texts_to_encode` puts in. The
reference script of PromptEOL (arXiv 2307.16645) does not: it fills its template with nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypedDict

from embedllm.errors import ConfigError, DataError
from embedllm.evaluation.tasks import Verify
from embedllm.evaluation.transfer_readers import (
    TRANSFER_FILES,
    TransferContent,
    TransferExample,
    TransferFiles,
    TransferKind,
    read_transfer_files,
)

# The order of the published tables.
TRANSFER_TASKS: Final = ("MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC")
# What SentEval's examples of encoders embed for a sentence without words.
EMPTY_SENTENCE_STAND_IN: Final = "."

SPLITS_OF_KIND: Final = MappingProxyType(
    {
        "cross_validation": ("all",),
        "train_dev_test": ("train", "dev", "test"),
        "train_test": ("train", "test"),
    }
)


@dataclass(frozen=True)
class TransferSplit:
    """Labelled sentences or pairs; the lists have one entry per example, in file order.

    Attributes:
        sentence1: sentences, words joined with one space; "" where a line has none.
        sentence2: second sentences of a pair task (MRPC); None for the others.
        labels: numbers of the classes, from 0.
    """

    sentence1: list[str]
    sentence2: list[str] | None
    labels: list[int]

    def __post_init__(self) -> None:
        lengths = [len(self.sentence1), len(self.labels)]
        if self.sentence2 is not None:
            lengths.append(len(self.sentence2))
        if len(set(lengths)) != 1:
            raise ValueError(f"sentences and labels have different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TransferTask:
    """One task: what a classifier is trained and tested on.

    Attributes:
        name: one of `TRANSFER_TASKS`, unless it was made up.
        kind: `cross_validation` (split `all`), `train_dev_test` or `train_test`.
        num_classes: labels are 0 to num_classes - 1.
        splits: the splits of the kind, in the order of its name.
    """

    name: str
    kind: TransferKind
    num_classes: int
    splits: dict[str, TransferSplit]

    def __post_init__(self) -> None:
        if tuple(self.splits) != SPLITS_OF_KIND[self.kind]:
            raise ValueError(
                f"Task {self.name} of kind {self.kind} has splits {list(self.splits)}, expected "
                f"{list(SPLITS_OF_KIND[self.kind])}."
            )
        for split, content in self.splits.items():
            if not all(0 <= label < self.num_classes for label in content.labels):
                raise ValueError(
                    f"Task {self.name}, split {split}: labels {sorted(set(content.labels))}, "
                    f"expected 0 to {self.num_classes - 1}."
                )
        empty = [split for split, content in self.splits.items() if len(content) == 0]
        if empty or len({content.sentence2 is None for content in self.splits.values()}) != 1:
            raise ValueError(
                f"Task {self.name} has empty splits ({empty}) or only some splits with pairs."
            )

    @property
    def num_examples(self) -> int:
        """Number of examples over all splits."""
        return sum(len(split) for split in self.splits.values())

    @property
    def is_pair_task(self) -> bool:
        """Whether an example has two sentences."""
        return all(split.sentence2 is not None for split in self.splits.values())


class TransferFingerprint(TypedDict):
    """What identifies the content of a split."""

    num_examples: int
    num_per_class: list[int]
    sha256: str


def load_transfer_task(
    name: str, *, data_dir: Path | None, verify: Verify = "strict"
) -> TransferTask:
    """Returns one task, verified against the published content.

    Every process reads the files by itself; nothing is communicated.

    Args:
        name: one of `TRANSFER_TASKS`.
        data_dir: folder with the data (`evaluation.data_dir`), see `transfer_readers`.
        verify: `strict` compares numbers of examples, of each class, and checksum of every split,
            `counts` only the numbers (for other tokenizations of the same examples).

    Raises:
        ConfigError: the name is unknown.
        DataError: the files are missing or malformed, or not the published ones.
    """
    if name not in TRANSFER_TASKS:
        raise ConfigError(
            f"Unknown transfer task {name!r} in evaluation.tasks; known transfer tasks: "
            f"{', '.join(TRANSFER_TASKS)}."
        )
    if data_dir is None:
        raise DataError(
            f"Task {name} needs data files, but no folder is set. Set evaluation.data_dir or the "
            "environment variable EMBEDLLM_DATA_DIR to the folder that holds senteval/."
        )
    files = TRANSFER_FILES[name]
    content = read_transfer_files(files, data_dir)
    # Before the task is built: an empty split is a wrong count here, not a programming mistake.
    _verify_counts(files, content)
    task = TransferTask(
        name=name,
        kind=files.kind,
        num_classes=len(files.classes),
        splits={
            split: _to_split(examples, is_pair_task=files.is_pair_task)
            for split, examples in content.examples.items()
        },
    )
    if verify == "strict":
        _verify_checksums(task, content)
    return task


def senteval_order(split: TransferSplit) -> list[int]:
    """Returns the order in which SentEval's code encodes and classifies the examples of a split.

    Entry i is the position in the split of SentEval's i-th example: shortest first, in words; see
    the module docstring. Folds are the same as SentEval's only in this order.
    """
    num_words1 = [len(sentence.split()) for sentence in split.sentence1]
    # One number for all leaves the second key of a single-sentence task without effect.
    num_words2 = [len(sentence.split()) for sentence in split.sentence2 or [""] * len(split)]
    keys = list(zip(num_words1, num_words2, split.labels, strict=True))
    return sorted(range(len(split)), key=keys.__getitem__)


def texts_to_encode(sentences: Iterable[str]) -> list[str]:
    """Returns the sentences with `EMPTY_SENTENCE_STAND_IN` for those without words."""
    return [sentence if sentence.strip() else EMPTY_SENTENCE_STAND_IN for sentence in sentences]


def fingerprint_transfer_task(task: TransferTask) -> dict[str, TransferFingerprint]:
    """Returns the fingerprint of every split: one entry of `transfer_checksums.json`."""
    return {
        name: fingerprint_split(split, num_classes=task.num_classes)
        for name, split in task.splits.items()
    }


def fingerprint_split(split: TransferSplit, *, num_classes: int) -> TransferFingerprint:
    r"""Returns the numbers of examples and the SHA-256 of their canonical serialisation.

    The serialisation is the UTF-8 text of one line `label TAB sentence1 LF`, or `label TAB
    sentence1 TAB sentence2 LF` for pairs, per example, in order. Sentences that were read from
    files have no tabs or line feeds by construction.
    """
    digest = hashlib.sha256()
    for row in _to_rows(split):
        digest.update(("\t".join(row) + "\n").encode("utf-8"))
    return TransferFingerprint(
        num_examples=len(split),
        num_per_class=_count_classes(split.labels, num_classes),
        sha256=digest.hexdigest(),
    )


def _to_rows(split: TransferSplit) -> Iterable[tuple[str, ...]]:
    labels = map(str, split.labels)
    if split.sentence2 is None:
        return zip(labels, split.sentence1, strict=True)
    return zip(labels, split.sentence1, split.sentence2, strict=True)


def _to_split(examples: Sequence[TransferExample], *, is_pair_task: bool) -> TransferSplit:
    return TransferSplit(
        sentence1=[example.sentence1 for example in examples],
        sentence2=[example.sentence2 or "" for example in examples] if is_pair_task else None,
        labels=[example.label for example in examples],
    )


def _count_classes(labels: Sequence[int], num_classes: int) -> list[int]:
    return [labels.count(label) for label in range(num_classes)]


def _load_published() -> dict[str, dict[str, TransferFingerprint]]:
    source = resources.files("embedllm.evaluation").joinpath("transfer_checksums.json")
    published: dict[str, dict[str, TransferFingerprint]] = json.loads(source.read_text("utf-8"))
    return published


def _verify_counts(files: TransferFiles, content: TransferContent) -> None:
    for split, expected in _load_published()[files.name].items():
        labels = [example.label for example in content.examples[split]]
        num_per_class = _count_classes(labels, len(files.classes))
        if num_per_class != expected["num_per_class"]:
            raise DataError(
                f"{files.name}, split {split}: found {len(labels)} examples "
                f"({_describe(files.classes, num_per_class)}), expected "
                f"{expected['num_examples']} "
                f"({_describe(files.classes, expected['num_per_class'])}), in "
                f"{_join(content.paths[split])}. The copy is truncated or another release; point "
                "evaluation.data_dir to a complete one. No value of evaluation.verify accepts it."
            )


def _verify_checksums(task: TransferTask, content: TransferContent) -> None:
    published = _load_published()[task.name]
    for split, found in fingerprint_transfer_task(task).items():
        expected = published[split]["sha256"]
        if found["sha256"] != expected:
            raise DataError(
                f"{task.name}, split {split}: the {found['num_examples']} examples have SHA-256 "
                f"{found['sha256']}, expected {expected}, in {_join(content.paths[split])}. "
                "Text, labels or order differ from SentEval's (other tokenization or case?), so "
                "results would not be comparable. Point evaluation.data_dir to another copy, or "
                "set evaluation.verify=counts to accept it."
            )


def _describe(classes: Sequence[str], counts: Sequence[int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in zip(classes, counts, strict=True))


def _join(paths: Sequence[Path]) -> str:
    return " and ".join(str(path) for path in paths)
