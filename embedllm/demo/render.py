"""The pictures of the page as HTML, from the files in `templates/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from embedllm.models.next_words import NextWord
from embedllm.prompts.parts import PromptParts

if TYPE_CHECKING:
    from jinja2 import Environment

# Cosines of decoder models crowd near 1; this spreads the tints there. The legend shows it.
_TINT_POWER: Final = 2.0


@dataclass(frozen=True)
class Found:
    """A sentence that a search found.

    Attributes:
        sentence: The sentence.
        score: Its cosine with the query, -1 to 1.
        rank: Its place, from 1.
        rank_before: Its place for the base model; None without another model.
    """

    sentence: str
    score: float
    rank: int
    rank_before: int | None = None


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("embedllm.demo"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tint"] = tint
    return environment


def tint(cosine: float) -> str:
    """Returns how strong the colour of a cosine is, 0 (none, as for all below 0) to 1."""
    return f"{min(1.0, max(0.0, cosine)) ** _TINT_POWER:.3f}"


def render(template: str, **values: Any) -> str:
    """Returns a template of `templates/`, filled; all values are escaped."""
    return _environment().get_template(template).render(**values)


def render_matrix(name: str, sentences: Sequence[str], cosines: NDArray[np.float64]) -> str:
    """Returns the table of cosines of every pair, tinted by their size."""
    closest = None
    if len(sentences) > 1:
        upper = np.where(np.triu(np.ones_like(cosines), k=1) > 0, cosines, -np.inf)
        row, column = divmod(int(upper.argmax()), len(sentences))
        closest = (row, column, float(cosines[row, column]))
    legend = [(step / 10, tint(step / 10)) for step in range(11)]
    return render(
        "matrix.html",
        name=name,
        sentences=sentences,
        cosines=cosines.tolist(),
        closest=closest,
        legend=legend,
    )


def render_ranking(name: str, found: Sequence[Found]) -> str:
    """Returns the list of a search, the best first."""
    return render("ranking.html", name=name, found=found)


def render_parts(parts: PromptParts, *, is_read_last: bool) -> str:
    """Returns the prompt token by token.

    Args:
        parts: The prompt.
        is_read_last: Whether the vector is the state at the last token.
    """
    return render("parts.html", parts=parts, is_read_last=is_read_last)


def render_words(name: str, words: Sequence[NextWord]) -> str:
    """Returns the words with their probabilities."""
    return render("words.html", name=name, words=words)
