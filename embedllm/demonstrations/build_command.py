"""`python -m embedllm demonstrations`: builds a set and reports what occurs in evaluation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedllm.config import DemonstrationConfig, DemonstrationsConfig
from embedllm.console import print_line
from embedllm.demonstrations.overlap import OverlapReport, OverlapScreen, load_evaluation_texts
from embedllm.demonstrations.sets import (
    PAPER,
    hash_demonstrations,
    load_demonstrations,
    write_demonstrations,
)
from embedllm.errors import DataError
from embedllm.files import write_json
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

_log = get_logger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class BuiltSet:
    """A set of demonstrations and how it came about.

    Attributes:
        demonstrations: The set.
        overlaps: What was found in evaluation sets.
        left_out: Why others are not in it, with their numbers.
        origin: Where it comes from, as plain values.
        output: The file it was written to; None when only the report was asked for.
    """

    demonstrations: list[DemonstrationConfig]
    overlaps: OverlapReport
    left_out: dict[str, int]
    origin: dict[str, Any]
    output: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `summary.json`."""
        return {
            "num_demonstrations": len(self.demonstrations),
            "sha256": hash_demonstrations(self.demonstrations),
            "output": None if self.output is None else str(self.output),
            "origin": self.origin,
            "left_out": self.left_out,
        }


@dataclass
class _Draft:
    """What the three sources have in common while a set is made."""

    demonstrations: list[DemonstrationConfig]
    origin: dict[str, Any]
    left_out: Counter[str] = field(default_factory=Counter)


def run_build(config: DemonstrationsConfig, invocation: Invocation) -> None:
    """Builds a set, writes it with its reports, and prints a summary.

    Args:
        config: The checked configuration.
        invocation: How the command was called; its folder is the run's.

    Raises:
        EmbedllmError: Whatever a user can mend.
    """
    quiet_libraries()
    built = build_set(config, invocation.folder)
    overlaps = invocation.folder / "overlaps.json"

    def draw(console: Console) -> None:
        console.print(built.overlaps.to_table())
        for reason, count in built.left_out.items():
            print_line(console, f"left out: {count} ({reason})")
        print_line(console, f"demonstrations: {len(built.demonstrations)}")
        print_line(console, f"overlaps: {overlaps}")
        if built.output is not None:
            print_line(console, f"set: {built.output}")

    invocation.show({**built.to_dict(), "overlaps": str(overlaps)}, draw)


def build_set(config: DemonstrationsConfig, folder: Path) -> BuiltSet:
    """Builds a set and writes `overlaps.json`, `summary.json` and, where asked for, the set.

    The same config and data give the same set.

    Args:
        config: The checked configuration.
        folder: The run folder.

    Raises:
        DataError: A file is missing or malformed, or no demonstration is left.
        ModelError: The model that proposes words cannot be had.
        CheckpointError: A file cannot be written.
    """
    screen = OverlapScreen(load_evaluation_texts(config.evaluation), config.keep_overlaps)
    build = {"wordnet": _from_wordnet, "words": _from_sentences, "paper": _from_paper}
    draft = build[config.source](config, screen, folder)
    report = screen.report()
    left_out = dict(draft.left_out)
    if screen.num_repeated:
        left_out["sentence already there"] = screen.num_repeated
    if report.overlaps and not report.are_kept:
        left_out["in an evaluation set"] = len(report.overlaps)
    output = Path(config.output) if config.output else folder / "demonstrations.csv"
    is_written = config.source != PAPER or config.output is not None
    built = BuiltSet(
        draft.demonstrations, report, left_out, draft.origin, output if is_written else None
    )
    write_json(folder / "overlaps.json", report.to_dict())
    if not built.demonstrations:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(f"no demonstration is left (left out: {reasons or 'none'})")
    if built.output is not None:
        write_demonstrations(built.output, built.demonstrations)
    write_json(folder / "summary.json", built.to_dict())
    return built


def _from_paper(config: DemonstrationsConfig, screen: OverlapScreen, folder: Path) -> _Draft:
    data_dir = Path(config.evaluation.data_dir) if config.evaluation.data_dir else None
    demonstrations = load_demonstrations(PAPER, data_dir=data_dir, key="source")
    kept = [d for d in demonstrations if screen.admits(d.sentence)]
    return _Draft(kept, {"source": PAPER})


def _from_wordnet(config: DemonstrationsConfig, screen: OverlapScreen, folder: Path) -> _Draft:
    from embedllm.demonstrations.wordnet import find_wordnet, read_definitions, release_of

    place = find_wordnet(config.wordnet_dir)
    definitions = read_definitions(place, config.definitions)
    drawn = _shuffle(definitions.demonstrations, config.seed)
    admitted = (d for d in drawn if screen.admits(d.sentence))
    demonstrations = list(islice(admitted, config.number))
    _warn_if_few(demonstrations, config)
    origin = {"source": "wordnet", "release": release_of(place), "wordnet_dir": str(place)}
    return _Draft(
        demonstrations, {**origin, "num_usable": len(drawn)}, Counter(definitions.left_out)
    )


def _from_sentences(config: DemonstrationsConfig, screen: OverlapScreen, folder: Path) -> _Draft:
    from embedllm.demonstrations.sentences import read_sentences
    from embedllm.demonstrations.word_proposals import build_proposer, propose_words

    sentences, source = read_sentences(config)
    # Screened before they are asked: a sentence that may not be used needs no word.
    admitted = (s for s in _shuffle(sentences, config.seed) if screen.admits(s))
    number = min(config.number or len(sentences), len(sentences))
    with build_proposer(config) as proposer:
        proposals = propose_words(admitted, proposer, folder, number=number, source=source)
        name = proposer.name
    _warn_if_few(proposals.demonstrations, config)
    origin: dict[str, Any] = {"source": "words", "sentences": config.sentences, "proposer": name}
    left_out: Counter[str] = Counter()
    if proposals.num_unusable:
        left_out["answer is no word"] = proposals.num_unusable
        origin["unusable_examples"] = proposals.unusable_examples
        examples = ", ".join(map(repr, proposals.unusable_examples))
        _log.info("answers that are no word, for example: %s", examples)
    return _Draft(proposals.demonstrations, origin, left_out)


def _shuffle(items: Sequence[_T], seed: int) -> list[_T]:
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[i] for i in order]


def _warn_if_few(
    demonstrations: Sequence[DemonstrationConfig], config: DemonstrationsConfig
) -> None:
    if config.number is not None and len(demonstrations) < config.number:
        _log.warning(
            "number=%d were wanted, but no more than %d could be made",
            config.number,
            len(demonstrations),
        )
