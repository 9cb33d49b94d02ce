"""The ranking of a search: every candidate with its score in every round that it reached."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROUND: Final = re.compile(r"score_(\d+)")
_MAX_CANDIDATES: Final = 20_000


@dataclass(frozen=True)
class Candidate:
    """One demonstration of a search.

    Attributes:
        number: Its number among the candidates, from 1.
        sentence: Its sentence.
        word: Its word.
        source: Where it is from.
        scores: Score by number of pairs, of the rounds that it reached, ascending.
    """

    number: int
    sentence: str
    word: str
    source: str
    scores: Mapping[int, float]


def read_ranking(path: Path) -> tuple[Candidate, ...]:
    """Returns the candidates of `ranking.csv`, the best first; none when there is no such file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no ranking.
        csv.Error: It is no CSV.
    """
    if not path.exists():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        found: list[Candidate] = []
        for row in rows:
            if len(found) == _MAX_CANDIDATES:
                raise ValueError(f"{path} has more than {_MAX_CANDIDATES} candidates")
            found.append(_parse(row, path))
    return tuple(found)


def _parse(row: Mapping[str, str | None], path: Path) -> Candidate:
    try:
        scores = {
            int(match[1]): float(value)
            for column, value in row.items()
            if column and (match := _ROUND.fullmatch(column)) and value
        }
        number, sentence, word = int(row["candidate"] or ""), row["sentence"], row["word"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no ranking of a search: {error}") from error
    if not scores or not all(map(math.isfinite, scores.values())) or sentence is None or not word:
        raise ValueError(f"{path} is no ranking of a search: a row lacks scores or texts")
    return Candidate(number, sentence, word, row.get("source") or "", dict(sorted(scores.items())))
