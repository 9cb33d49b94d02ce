"""The section about demonstrations: how the scores of all candidates of a search are spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from embedllm.report.cells import name_of
from embedllm.report.content import PageContent
from embedllm.report.html.drawing import INK, MUTED, SERIES, Size, draw, note
from embedllm.report.html.parts import (
    Cell,
    Picture,
    Section,
    Table,
    number,
    numbers,
    prose,
    texts,
)
from embedllm.report.markdown import escape
from embedllm.report.searches import StoredSearch
from embedllm.report.settings import shorten_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COMMAND: Final = "python -m embedllm search model=smollm2-135m"
_PANEL_HEIGHT: Final = 175


def demonstrations_section(content: PageContent) -> Section:
    """Returns the distribution over all candidates, one panel for every model searched."""
    searches = content.tables.searches
    shown = _largest([search for search in searches if search.candidates])
    tables = (_facts(searches),) if searches else ()
    pictures = (_picture(shown),) if shown else ()
    sentences = [
        "A search scores PromptEOL with each candidate demonstration and keeps the best one. All "
        "candidates are scored in the first round, on the same few pairs; how much the choice of a "
        "demonstration matters is seen there.",
    ]
    sentences += [_say(search) for search in shown]
    missing = () if shown else (("The scores of all candidates of a search", _COMMAND),)
    title = "Demonstrations"
    return Section("demonstrations", title, prose(*sentences), pictures, tables, missing)


def _largest(searches: Sequence[StoredSearch]) -> list[StoredSearch]:
    """Returns, for every model and task, the search with the most candidates."""
    best: dict[tuple[str, str], StoredSearch] = {}
    for search in searches:
        key = (_title(search), search.summary["task"])
        if key not in best or len(search.candidates) > len(best[key].candidates):
            best[key] = search
    return list(best.values())


def _title(search: StoredSearch) -> str:
    return f"{shorten_model(search.summary['model']['name'])}, {search.summary['dtype']}"


def _first_scores(search: StoredSearch) -> list[float]:
    """Returns the scores of the first round, that of the winner first."""
    return [next(iter(candidate.scores.values())) for candidate in search.candidates]


def _say(search: StoredSearch) -> str:
    first = search.summary["rungs"][0]
    scores = _first_scores(search)
    above = sum(score > first["baseline"] for score in scores)
    return (
        f"**{escape(_title(search))}.** {above} of {len(scores)} candidates are above the prompt "
        f"without one, by up to {max(scores) - first['baseline']:.2f} points; the worst costs "
        f"{max(0.0, first['baseline'] - min(scores)):.2f}."
    )


def _picture(searches: Sequence[StoredSearch]) -> Picture:
    said = [
        f"{_title(s)}: {len(s.candidates)} candidates from {min(_first_scores(s)):.2f} to "
        f"{max(_first_scores(s)):.2f}, median {np.median(_first_scores(s)):.2f}, without a "
        f"demonstration {s.summary['rungs'][0]['baseline']:.2f}."
        for s in searches
    ]
    wide, narrow = draw(
        "demonstrations",
        lambda figure, size: _paint(figure, size, searches),
        height=lambda size: 45 + _PANEL_HEIGHT * len(searches),
        title="Scores of all candidate demonstrations in the first round",
        said=" ".join(said),
    )
    columns = (*texts("model", "word", "sentence"), *numbers("first round", "pairs", "last score"))
    rows = tuple(
        (
            Cell(_title(search)),
            Cell(candidate.word),
            Cell(candidate.sentence),
            number(next(iter(candidate.scores.values()))),
            number(list(candidate.scores)[-1], 0),
            number(list(candidate.scores.values())[-1]),
        )
        for search in searches
        for candidate in search.candidates
    )
    caption = "All candidates; the last score is on so many pairs, as far as halving took them"
    return Picture(
        "How good each candidate is, before any is chosen",
        wide,
        narrow,
        Table(caption, columns, rows),
        tuple(str(search.summary["command"]) for search in searches),
    )


def _paint(figure: Figure, size: Size, searches: Sequence[StoredSearch]) -> None:
    panels = figure.subplots(len(searches), 1, sharex=True, squeeze=False)[:, 0]
    every = [score for search in searches for score in _first_scores(search)]
    edges = np.arange(np.floor(min(every)), np.ceil(max(every)) + 1)
    for place, (axes, search) in enumerate(zip(panels, searches, strict=True)):
        _paint_one(axes, search, edges, SERIES[place % len(SERIES)])
    panels[-1].set_xlabel("Spearman x 100 in the first round")


def _paint_one(axes: Axes, search: StoredSearch, edges: np.ndarray, color: str) -> None:
    scores, first = _first_scores(search), search.summary["rungs"][0]
    counts, *_ = axes.hist(scores, bins=list(edges), color=color, alpha=0.55, rwidth=0.9)
    top = float(np.max(counts))
    axes.set_ylim(0, top * 1.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    axes.set_title(f"{_title(search)}: {len(scores)} candidates on {first['pairs']} pairs")
    without, winner = first["baseline"], scores[0]
    for value, text, height, dash in (
        (without, f"none {without:.2f}", 1.34, "-"),
        (winner, f"chosen {winner:.2f}", 1.34, (0, (4, 2))),
    ):
        axes.plot([value, value], [0, top * 1.25], color=INK, linewidth=1.3, linestyle=dash)
        is_left = value <= winner and value != winner
        note(
            axes,
            text,
            (value, top * height),
            xytext=(0, 0),
            ha="right" if is_left else "left",
        )
    axes.axvline(float(np.median(scores)), color=MUTED, linewidth=1, linestyle=(0, (1, 1.5)))


def _facts(searches: Sequence[StoredSearch]) -> Table:
    columns = (
        *texts("model", "search", "task", "winner"),
        *numbers("candidates", "without", "with", "gain", "above without, %", "cost, %"),
    )
    rows = []
    for search in searches:
        summary = search.summary
        rows.append(
            (
                Cell(_title(search)),
                Cell(search.path.stem),
                Cell(name_of(summary["task"])),
                Cell(str(summary["winner"]["word"])),
                number(summary["num_candidates"], 0),
                number(summary["baseline"]),
                number(summary["winner"]["score"]),
                number(summary["gain"]),
                number(100 * summary["rungs"][0]["above_baseline"], 1),
                number(100 * summary["cost"]["ratio"], 1),
            )
        )
    caption = "Searches: the winner on all pairs, and the cost beside scoring every candidate"
    return Table(caption, (*columns,), tuple(rows))


