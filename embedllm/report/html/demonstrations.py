"""The section about demonstrations: how the scores of all candidates of a search are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from embedllm.report.cells import name_of
from embedllm.report.content import PageContent
from embedllm.report.html.drawing import INK, SERIES, Size, draw, note, visible
from embedllm.report.html.parts import Cell, Picture, Section, Table, number, numbers, prose, texts
from embedllm.report.markdown import escape
from embedllm.report.searches import StoredSearch, titles_of
from embedllm.report.settings import shorten_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COMMAND: Final = "python -m embedllm search model=smollm2-135m"
_PANEL_HEIGHT: Final = 190


@dataclass(frozen=True)
class _Search:
    """A search, with what the page calls its model."""

    title: str
    stored: StoredSearch

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.stored.summary

    @property
    def first_round(self) -> list[float]:
        """Scores of all candidates on the first pairs, that of the winner first."""
        return [next(iter(candidate.scores.values())) for candidate in self.stored.candidates]

    @property
    def without(self) -> float:
        """Score without a demonstration on the same pairs."""
        return float(self.summary["rungs"][0]["baseline"])


def demonstrations_section(content: PageContent) -> Section:
    """Returns the distribution over all candidates, one panel for every model searched."""
    titles = titles_of(content.tables.report)
    searches = [_Search(_title(each, titles), each) for each in content.tables.searches]
    shown = _largest([search for search in searches if search.stored.candidates])
    sentences = [
        "A search scores PromptEOL with each candidate demonstration and keeps the best one. In "
        "the first round all candidates are scored on the same few pairs, which shows how much "
        "depends on the choice. A bar is one point of Spearman.",
        *map(_say_gain, shown),
    ]
    return Section(
        key="demonstrations",
        title="Demonstrations",
        prose=prose(*sentences) if searches else (),
        pictures=(_picture(shown),) if shown else (),
        tables=(_build_facts(searches),) if searches else (),
        missing=() if shown else (("the scores of all candidates of a search", _COMMAND),),
    )


def _title(search: StoredSearch, titles: Mapping[str, str]) -> str:
    name = search.summary["model"]["name"]
    return f"{titles.get(name, shorten_model(name))}, {search.summary['dtype']}"


def _largest(searches: Sequence[_Search]) -> list[_Search]:
    """Returns, for every model and task, the search with the most candidates."""
    best: dict[tuple[str, str], _Search] = {}
    for search in searches:
        key = (search.title, search.summary["task"])
        if key not in best or len(search.first_round) > len(best[key].first_round):
            best[key] = search
    return list(best.values())


def _say_gain(search: _Search) -> str:
    scores = search.first_round
    above = sum(score > search.without for score in scores)
    return (
        f"**{escape(search.title)}.** {above} of {len(scores)} candidates are above the prompt "
        f"without one ({search.without:.2f}); the best has {max(scores):.2f}, the worst "
        f"{min(scores):.2f}."
    )


def _picture(searches: Sequence[_Search]) -> Picture:
    said = [
        f"{s.title}: {len(s.first_round)} candidates from {min(s.first_round):.2f} to "
        f"{max(s.first_round):.2f}, median {np.median(s.first_round):.2f}, without a "
        f"demonstration {s.without:.2f}."
        for s in searches
    ]
    wide, narrow = draw(
        "demonstrations",
        lambda figure, size: _paint(figure, size, searches),
        height=lambda size: 45 + _PANEL_HEIGHT * len(searches),
        title="Scores of all candidate demonstrations in the first round",
        said=" ".join(said),
    )
    return Picture(
        "Every candidate in the first round",
        wide,
        narrow,
        _build_candidates(searches),
        tuple(str(search.summary["command"]) for search in searches),
    )


def _paint(figure: Figure, size: Size, searches: Sequence[_Search]) -> None:
    figure.get_layout_engine().set(hspace=0.08)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(len(searches), 1, sharex=True, squeeze=False)[:, 0]
    every = [score for search in searches for score in (*search.first_round, search.without)]
    edges = [float(edge) for edge in np.arange(np.floor(min(every)), np.ceil(max(every)) + 1)]
    for place, (axes, search) in enumerate(zip(panels, searches, strict=True)):
        _paint_one(axes, search, edges, SERIES[place % len(SERIES)])
        pairs = "" if size.is_narrow else f" on {search.summary['rungs'][0]['pairs']} pairs"
        number_of = f"{len(search.first_round)} candidates{pairs}"
        axes.set_title(f"{visible(search.title, longest=26)}: {number_of}")
    panels[-1].set_xlabel("Spearman x 100 in the first round")


def _paint_one(axes: Axes, search: _Search, edges: list[float], color: str) -> None:
    counts, *_ = axes.hist(search.first_round, bins=edges, color=color, alpha=0.6, rwidth=0.88)
    top = float(np.max(counts))
    axes.set_ylim(0, top * 1.45)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    winner = search.first_round[0]
    for value, text, dash, is_left in (
        (search.without, f"none {search.without:.2f}", "-", search.without <= winner),
        (winner, f"chosen {winner:.2f}", (0, (4, 2)), winner < search.without),
    ):
        axes.plot([value, value], [0, top * 1.22], color=INK, linewidth=1.3, linestyle=dash)
        side = "right" if is_left else "left"
        note(axes, text, (value, top * 1.32), xytext=(6 if is_left else -6, 0), ha=side)


def _build_candidates(searches: Sequence[_Search]) -> Table:
    columns = (*texts("word", "sentence", "model"), *numbers("first round", "pairs", "last score"))
    rows = tuple(
        (
            Cell(candidate.word),
            Cell(candidate.sentence),
            Cell(search.title),
            number(next(iter(candidate.scores.values()))),
            number(list(candidate.scores)[-1], 0),
            number(list(candidate.scores.values())[-1]),
        )
        for search in searches
        for candidate in search.stored.candidates
    )
    caption = "All candidates; the last score is on so many pairs, as far as halving took them"
    return Table(caption, columns, rows)


def _build_facts(searches: Sequence[_Search]) -> Table:
    columns = (
        *texts("model", "search", "winner"),
        *numbers("candidates", "without", "with", "gain", "above without, %", "cost, %"),
    )
    rows = tuple(
        (
            Cell(search.title),
            Cell(search.stored.path.stem),
            Cell(str(search.summary["winner"]["word"])),
            number(search.summary["num_candidates"], 0),
            number(search.summary["baseline"]),
            number(search.summary["winner"]["score"]),
            number(search.summary["gain"]),
            number(100 * search.summary["rungs"][0]["above_baseline"], 1),
            number(100 * search.summary["cost"]["ratio"], 1),
        )
        for search in searches
    )
    tasks = ", ".join(dict.fromkeys(name_of(search.summary["task"]) for search in searches))
    caption = (
        f"Searches on {tasks}: the winner on all pairs, and the cost beside scoring every candidate"
    )
    return Table(caption, columns, rows)
