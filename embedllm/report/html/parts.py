"""What the page is made of: sections with sentences, pictures, tables and commands.

All texts are plain; the template escapes them. Only pictures and prose are HTML already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedllm.report.markdown import MISSING

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        order: What it is sorted by; None for its text, in columns of numbers for the end.
        url: Where the text leads, None for nowhere.
        is_best: Whether it is the best of its column.
        is_code: Whether it is shown as code.
    """

    text: str
    order: float | None = None
    url: str | None = None
    is_best: bool = False
    is_code: bool = False


@dataclass(frozen=True)
class Column:
    """The heading of a column.

    Attributes:
        title: The heading.
        is_number: Whether its cells are numbers, flush right.
    """

    title: str
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows, in words.
        columns: Its columns.
        rows: A cell for every column.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of {self.caption!r} has not {len(self.columns)} cells")


@dataclass(frozen=True)
class Picture:
    """A picture with the data and the command behind it.

    Attributes:
        title: What it shows.
        wide: The picture for a screen, as SVG.
        narrow: The same for a phone.
        table: Its data.
        commands: What makes the data.
    """

    title: str
    wide: Markup
    narrow: Markup
    table: Table
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: Name of its place in the page.
        title: Heading.
        prose: Paragraphs.
        pictures: Pictures.
        tables: Tables behind them.
        notes: Paragraphs at the end.
        missing: What would be here, and the command that makes it.
    """

    key: str
    title: str
    prose: tuple[Markup, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[Markup, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()


def number(value: float | None, digits: int = 2, *, is_best: bool = False) -> Cell:
    """Returns the cell of a number, `-` for none."""
    if value is None:
        return Cell(MISSING)
    return Cell(f"{value:,.{digits}f}", value, is_best=is_best)


def signed(value: float | None) -> Cell:
    """Returns the cell of a difference, `-` for none."""
    return Cell(MISSING) if value is None else Cell(f"{value:+.2f}", value)


def texts(*titles: str) -> tuple[Column, ...]:
    """Returns columns of texts."""
    return tuple(Column(title) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Returns columns of numbers."""
    return tuple(Column(title, is_number=True) for title in titles)


def prose(*sentences: str) -> tuple[Markup, ...]:
    """Returns paragraphs of Markdown, whose user texts are escaped, as HTML."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    # Whatever is in them, no tag gets through.
    reader = MarkdownIt("commonmark", {"html": False})
    return tuple(Markup(reader.renderInline(sentence)) for sentence in sentences)
