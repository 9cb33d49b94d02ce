"""The methods of `conf/method` as a reader knows them: title, source, place in tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Method:
    """One way to get a vector.

    Attributes:
        title: Name of the row.
        authors: First author and year of the source, None where it is not known.
        arxiv: Number of the source on arXiv.
        pooling: `model.pooling` of the method; a row with another one says so.
        token_prepending_layers: Likewise.
    """

    title: str
    authors: str | None = None
    arxiv: str | None = None
    pooling: str = "last"
    token_prepending_layers: int = 0


_PAPER: Final = ("Jiang et al. 2023", "2307.16645")

# In the order of the tables: the paper's four steps, then what came later. Keys are the labels
# of results, which are the names of the files in conf/method.
METHODS: Final[dict[str, Method]] = {
    "mean": Method("Mean pooling", *_PAPER, pooling="mean"),
    "plain": Method("Plain prompt", *_PAPER),
    "prompteol": Method("PromptEOL", *_PAPER),
    "demonstration": Method("PromptEOL + demonstration", *_PAPER),
    "pretended-cot": Method("Pretended CoT", "Zhang et al. 2024", "2404.03921"),
    "knowledge": Method("Knowledge Enhancement", "Zhang et al. 2024", "2404.03921"),
    "metaeol": Method("MetaEOL", "Lei et al. 2024", "2402.18458"),
    "echo": Method("Echo", "Springer et al. 2024", "2402.15449", pooling="mean"),
    "token-prepending": Method(
        "Token Prepending", "Fu et al. 2024", "2412.11556", token_prepending_layers=7
    ),
}
# The paper's claim, from worst to best.
PAPER_ORDER: Final = ("mean", "plain", "prompteol", "demonstration")
