"""The pair tasks by name: loads them and verifies that they are the published ones.

`checksums.json` keeps, per task and subset, the number of pairs and a SHA-256 over the parsed
content, so that a truncated or differently tokenized copy is noticed before a model is loaded.
The canonical serialisation is defined in `fingerprint_subset`. The file was made, and is made
again after a change of that definition, by

    json.dump({task.name: fingerprint_task(task) for task in tasks}, file, indent=2)

with tasks loaded from a trusted copy under `verify="counts"`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from embedllm.errors import ConfigError, DataError
from embedllm.evaluation.readers import TASK_FILES, Layout, TaskContent, read_task_files
from embedllm.evaluation.transfer_readers import TRANSFER_FILES

if TYPE_CHECKING:
    from embedllm.data.sample import ScoredPair

Verify = Literal["strict", "counts"]

# The seven tasks of the published averages, in the order of the published tables.
PAPER_TASKS: Final = (
    "STS12",
    "STS13",
    "STS14",
    "STS15",
    "STS16",
    "STSBenchmark",
    "SICKRelatedness",
)
SAMPLE_TASKS: Final = ("sample-dev", "sample-test")
TASK_NAMES: Final = (*TASK_FILES, *SAMPLE_TASKS)

_NUM_SAMPLE_PAIRS: Final = 200
_SAMPLE_SEED: Final = 0


@dataclass(frozen=True)
class PairSubset:
    """Sentence pairs with gold scores; the three lists have one entry per pair, in file order.

    Attributes:
        sentence1: first sentences, words joined with one space.
        sentence2: second sentences, likewise.
        scores: gold similarity, 0-5, higher is more similar.
    """

    sentence1: list[str]
    sentence2: list[str]
    scores: list[float]

    def __post_init__(self) -> None:
        lengths = len(self.sentence1), len(self.sentence2), len(self.scores)
        if len(set(lengths)) != 1:
            raise ValueError(f"sentence1, sentence2 and scores have different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class PairTask:
    """One task: a name and its subsets, in the order in which they are concatenated."""

    name: str
    subsets: dict[str, PairSubset]

    def __post_init__(self) -> None:
        empty = [name for name, subset in self.subsets.items() if len(subset) == 0]
        if not self.subsets or empty:
            raise ValueError(f"Task {self.name} has no pairs (empty subsets: {empty}).")

    @property
    def num_pairs(self) -> int:
        """Number of pairs over all subsets."""
        return sum(len(subset) for subset in self.subsets.values())


class Fingerprint(TypedDict):
    """What identifies the content of a subset."""

    num_pairs: int
    sha256: str


def check_task_names(names: Sequence[str], *, with_transfer: bool = False) -> None:
    """Checks task names before any file is read.

    Args:
        names: names of tasks.
        with_transfer: transfer tasks are fine too.

    Raises:
        ConfigError: no name is given, one is unknown or of the wrong kind, or one occurs twice.
    """
    if not names or len(set(names)) != len(names):
        raise ConfigError(
            f"evaluation.tasks is {list(names)}, expected at least one task and none twice."
        )
    for name in names:
        if not (with_transfer and name in TRANSFER_FILES):
            _check_name(name)


def load_tasks(
    names: Sequence[str],
    *,
    data_dir: Path | None,
    layout: Layout = "auto",
    verify: Verify = "strict",
) -> list[PairTask]:
    """Returns the named tasks, all verified, in the given order.

    All seven tasks take well under a second, so this is also the check to make before a model is
    loaded. Arguments and errors are those of `load_task`.

    Raises:
        ConfigError: no name is given, one is unknown, or one occurs twice.
        DataError: as in `load_task`.
    """
    check_task_names(names)
    return [load_task(name, data_dir=data_dir, layout=layout, verify=verify) for name in names]


def load_task(
    name: str,
    *,
    data_dir: Path | None,
    layout: Layout = "auto",
    verify: Verify = "strict",
) -> PairTask:
    """Returns one task, verified against the published content.

    Every process reads the files by itself; nothing is communicated.

    Args:
        name: one of `TASK_NAMES`. Test splits, unless the name ends in `-dev`. The sample tasks
            are generated and need no files.
        data_dir: folder with the data (`evaluation.data_dir`); None is fine for sample tasks.
        layout: which file layout to read, see `readers`.
        verify: `strict` compares number of pairs and checksum of every subset, `counts` only the
            number of pairs (for other tokenizations of the same pairs).

    Raises:
        ConfigError: the name is unknown.
        DataError: the files are missing or malformed, or not the published ones.
    """
    _check_name(name)
    if name in SAMPLE_TASKS:
        return _load_sample(name)
    if data_dir is None:
        raise DataError(
            f"Task {name} needs data files, but no folder is set. Set evaluation.data_dir or the "
            "environment variable EMBEDLLM_DATA_DIR to the folder that holds senteval/ or sts/, "
            f"or choose {' or '.join(SAMPLE_TASKS)} in evaluation.tasks, which need no files."
        )
    content = read_task_files(TASK_FILES[name], data_dir, layout=layout)
    # Before the subsets are built: an empty one is a wrong count here, not a programming mistake.
    _verify_counts(name, content)
    subsets = {
        subset: PairSubset(
            sentence1=[pair.sentence1 for pair in pairs],
            sentence2=[pair.sentence2 for pair in pairs],
            scores=[pair.score for pair in pairs],
        )
        for subset, pairs in content.pairs.items()
    }
    task = PairTask(name=name, subsets=subsets)
    if verify == "strict":
        _verify_checksums(task, content)
    return task


def fingerprint_task(task: PairTask) -> dict[str, Fingerprint]:
    """Returns the fingerprint of every subset, in order: one entry of `checksums.json`."""
    return {name: fingerprint_subset(subset) for name, subset in task.subsets.items()}


def fingerprint_subset(subset: PairSubset) -> Fingerprint:
    r"""Returns the number of pairs and the SHA-256 of their canonical serialisation.

    The serialisation is the UTF-8 text of one line `sentence1 TAB sentence2 TAB score LF` per
    pair, in order. Sentences have no tabs or line feeds by construction. Scores are written with
    four decimals: gold files spell the same number as `4`, `4.000` or with 14 digits, and the
    spelling must not matter.
    """
    digest = hashlib.sha256()
    for row in zip(subset.sentence1, subset.sentence2, subset.scores, strict=True):
        digest.update("{}\t{}\t{:.4f}\n".format(*row).encode("utf-8"))
    return Fingerprint(num_pairs=len(subset), sha256=digest.hexdigest())


def _load_published() -> dict[str, dict[str, Fingerprint]]:
    text = resources.files("embedllm.evaluation").joinpath("checksums.json").read_text("utf-8")
    published: dict[str, dict[str, Fingerprint]] = json.loads(text)
    return published


def _verify_counts(name: str, content: TaskContent) -> None:
    for subset, expected in _load_published()[name].items():
        found = len(content.pairs[subset])
        if found != expected["num_pairs"]:
            raise DataError(
                f"{name}, subset {subset}: found {found} pairs with a gold score, expected "
                f"{expected['num_pairs']}, in {_join(content.paths[subset])}. The copy is "
                "truncated or another release; point evaluation.data_dir to a complete one."
            )


def _verify_checksums(task: PairTask, content: TaskContent) -> None:
    published = _load_published()[task.name]
    for subset, found in fingerprint_task(task).items():
        expected = published[subset]["sha256"]
        if found["sha256"] != expected:
            raise DataError(
                f"{task.name}, subset {subset}: the {found['num_pairs']} pairs have SHA-256 "
                f"{found['sha256']}, expected {expected}, in {_join(content.paths[subset])}. "
                "Text or scores differ from SentEval's (other tokenization or case?), so results "
                "would not be comparable. Point evaluation.data_dir to another copy, or set "
                "evaluation.verify=counts to accept it."
            )


def _load_sample(name: str) -> PairTask:
    split: Literal["dev", "test"] = "dev" if name == "sample-dev" else "test"
    pairs = _sample_pairs(split)
    subset = PairSubset(
        sentence1=[pair.sentence1 for pair in pairs],
        sentence2=[pair.sentence2 for pair in pairs],
        scores=[float(pair.score) for pair in pairs],
    )
    return PairTask(name=name, subsets={split: subset})


@cache
def _sample_pairs(split: Literal["dev", "test"]) -> Sequence[ScoredPair]:
    from embedllm.data.sample import generate_pairs

    return tuple(generate_pairs(_NUM_SAMPLE_PAIRS, split=split, seed=_SAMPLE_SEED))


def _check_name(name: str) -> None:
    if name in TRANSFER_FILES:
        raise ConfigError(
            f"{name} is a transfer task, but this needs pairs with gold scores; choose from "
            f"{', '.join(TASK_NAMES)} in evaluation.tasks or evaluation.dev_task."
        )
    if name not in TASK_NAMES:
        raise ConfigError(
            f"Unknown task {name!r} in evaluation.tasks; known tasks: {', '.join(TASK_NAMES)}; "
            f"known transfer tasks: {', '.join(TRANSFER_FILES)}."
        )


def _join(paths: Sequence[Path]) -> str:
    return " and ".join(str(path) for path in paths)
