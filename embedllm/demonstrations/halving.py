"""Successive halving: every candidate on few pairs, the better ones on more (Karnin et al. 2013).

One pure function decides who goes on. The search calls it with scores that it computes when they
are asked for, the simulation with scores looked up in a table, so both follow the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """One round of a search.

    Attributes:
        num_pairs: Pairs that every candidate of the round has been scored on.
        scores: Score by candidate, for all candidates that got so far.
    """

    num_pairs: int
    scores: dict[int, float]


@dataclass(frozen=True)
class HalvingResult:
    """What a search found.

    Attributes:
        rungs: All rounds, in order.
        ranking: All candidates, the best first: by the round they reached, then by the score
            there, then by their number.
    """

    rungs: tuple[Rung, ...]
    ranking: tuple[int, ...]

    @property
    def winner(self) -> int:
        """The candidate with the best score among those of the last round."""
        return self.ranking[0]

    @property
    def cost(self) -> int:
        """Pairs scored, summed over candidates; a round pays for its new pairs only."""
        previous = [0, *(rung.num_pairs for rung in self.rungs)]
        return sum(
            len(rung.scores) * (rung.num_pairs - before)
            for rung, before in zip(self.rungs, previous, strict=False)
        )


ScoreRung = Callable[[Sequence[int], int], Sequence[float]]
"""Gets candidates and a number of pairs; returns the score of each on the first so many pairs."""


def run_halving(
    num_candidates: int, rungs: Sequence[int], keep: Sequence[int], *, score: ScoreRung
) -> HalvingResult:
    """Returns the outcome of successive halving.

    Args:
        num_candidates: Candidates, numbered from 0.
        rungs: Number of pairs of each round, growing.
        keep: How many candidates go on from each round but the last; a number above what is
            there keeps all.
        score: Scores candidates on the first pairs; called once for each round.
    """
    candidates = list(range(num_candidates))
    rounds: list[Rung] = []
    for num_pairs, num_kept in zip(rungs, [*keep, 0], strict=True):
        scores = dict(zip(candidates, score(candidates, num_pairs), strict=True))
        rounds.append(Rung(num_pairs, scores))
        candidates = sorted(by_score(scores)[:num_kept])
    # Later rounds overwrite earlier ones, which leaves the last round of each candidate.
    reached = {candidate: i for i, rung in enumerate(rounds) for candidate in rung.scores}
    ranking = sorted(reached, key=lambda c: (-reached[c], -rounds[reached[c]].scores[c], c))
    return HalvingResult(tuple(rounds), tuple(ranking))


def by_score(scores: dict[int, float]) -> list[int]:
    """Returns the candidates, the best first; of equal ones the lower number first."""
    return sorted(scores, key=lambda candidate: (-scores[candidate], candidate))
