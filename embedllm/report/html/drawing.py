"""Draws with matplotlib into SVG whose colours and letters are those of the page.

Every colour is drawn as an odd one and becomes a CSS variable afterwards, so a picture follows the
page into dark mode and onto paper. Text stays text. Each picture is made in two widths, so letters
have one size on a screen and on a phone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

# Where a text may stand beside a point, best first.
_SIDES: Final[tuple[tuple[tuple[int, int], dict[str, Any]], ...]] = (
    ((9, 0), {"ha": "left", "va": "center"}),
    ((-9, 0), {"ha": "right", "va": "center"}),
    ((0, 9), {"ha": "center", "va": "bottom"}),
    ((0, -9), {"ha": "center", "va": "top"}),
    ((7, 9), {"ha": "left", "va": "bottom"}),
    ((-7, -9), {"ha": "right", "va": "top"}),
    ((-5, 9), {"ha": "left", "va": "bottom"}),
)
# Drawn as these, shown as var(--ink) and so on.
INK: Final = "#010203"
MUTED: Final = "#010204"
GRID: Final = "#010205"
PAPER: Final = "#010206"
SERIES: Final = ("#010210", "#010211", "#010212", "#010213", "#010214", "#010215")
# Nothing is told by colour alone.
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "-", "--")

_VARIABLES: Final = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    **{color: f"series-{place}" for place, color in enumerate(SERIES, start=1)},
}
_COLORS: Final = re.compile("|".join(_VARIABLES))
_WIDE: Final = 720
_NARROW: Final = 340
_SVG: Final = "http://www.w3.org/2000/svg"
_XLINK: Final = "http://www.w3.org/1999/xlink"
# The letters of the page instead; turns by nothing; hundredths of a pixel that nobody sees.
_NEEDLESS: Final = re.compile(r"font-family: 'DejaVu Sans'; | transform=\"rotate\(-0 [^)]*\)\"")
_DECIMALS: Final = re.compile(r"(\d\.\d{2})\d+")
_POINTS_PER_INCH: Final = 72
# From the middle of a mark to its rim.
_MARK: Final = 5
# Characters of a row's name.
_LONGEST_ROW: Final = 50
_STYLE: Final[dict[str, Any]] = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.5,
    # Text stays text, so it is as sharp as the page's and can be found and read aloud.
    "svg.fonttype": "none",
    "text.color": INK,
    # A dollar in the name of a run begins no formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 12,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 12,
}


@dataclass(frozen=True)
class Size:
    """How much room there is.

    Attributes:
        width: In pixels of the page.
        is_narrow: Whether it is a phone's.
    """

    width: int
    is_narrow: bool


def draw(
    key: str,
    paint: Callable[[Figure, Size], None],
    *,
    height: Callable[[Size], float],
    title: str,
    said: str,
) -> tuple[Markup, Markup]:
    """Returns a picture for a screen and for a phone; the same input gives the same text.

    Args:
        key: Name of the picture, of letters and hyphens; no other picture of the page has it.
        paint: Draws on an empty figure.
        height: Height in pixels.
        title: Title, for readers that hear the page.
        said: What is to be seen, in words, likewise.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    found = []
    for size in (Size(_WIDE, False), Size(_NARROW, True)):
        name = f"{key}-{size.width}"
        # The salt makes the names of shapes this picture's own: two pictures may not share them,
        # because the shapes of one that is not shown are not there.
        style: Any = {**_STYLE, "svg.hashsalt": name}
        with rc_context(style):
            inches = (size.width / _POINTS_PER_INCH, height(size) / _POINTS_PER_INCH)
            figure = Figure(figsize=inches, dpi=_POINTS_PER_INCH, layout="constrained")
            paint(figure, size)
            content = BytesIO()
            figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        found.append(_adopt(content.getvalue(), name, title, said))
    return found[0], found[1]


def readable(text: str) -> str:
    """Returns a text without what XML and UTF-8 cannot hold or nobody can see."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def visible(text: str, *, longest: int = 34) -> str:
    """Returns a text on one line, cut where it is too long for a picture."""
    line = " ".join(readable(text).split())
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}\u2026"


def label_rows(axes: Axes, names: Sequence[str], size: Size) -> None:
    """Names the rows 0, 1, ... of a horizontal picture: beside them, on a phone above them.

    Args:
        axes: Where.
        names: Names; what is behind a line feed is on a line of its own, where there is room.
        size: How much room there is.
    """
    axes.set_ylim(len(names) - 0.5, -0.75 if size.is_narrow else -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if not size.is_narrow:
        parts = [[visible(part, longest=_LONGEST_ROW) for part in n.split("\n")] for n in names]
        axes.set_yticks(range(len(names)), ["\n".join(lines) for lines in parts])
        return
    axes.set_yticks([])
    for place, name in enumerate(names):
        whole = name.replace("\n", ", ")
        shown = whole if len(whole) <= _LONGEST_ROW else name.partition("\n")[0]
        axes.annotate(
            visible(shown, longest=_LONGEST_ROW),
            (0, place - 0.24),
            xycoords=("axes fraction", "data"),
            va="bottom",
            fontsize=11,
            # A line that runs through all rows stops at a name.
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )


def place_notes(
    figure: Figure,
    axes: Axes,
    notes: Sequence[tuple[str, Sequence[tuple[float, float]]]],
) -> None:
    """Writes texts beside points, on sides where they hide no other text, no point and no line.

    Args:
        figure: The figure, complete but for these texts.
        axes: Where; what it has drawn with `plot` is not to be hidden.
        notes: Every text and the points that it may stand beside, best first.
    """
    figure.draw_without_rendering()
    # From now on nothing moves any more.
    figure.set_layout_engine("none")
    taken: list[Any] = []
    for text, points in notes:
        choices = [_annotate(axes, text, at, *side) for at in points for side in _SIDES]
        faults = [_count_faults(choice, axes, taken) for choice in choices]
        best = faults.index(min(faults))
        taken.append(choices.pop(best).get_window_extent())
        for choice in choices:
            choice.remove()


def _annotate(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], how: dict[str, Any]
) -> Annotation:
    return axes.annotate(text, at, offset, textcoords="offset points", fontsize=11, **how)


def _count_faults(text: Annotation, axes: Axes, taken: list[Any]) -> tuple[bool, int, int]:
    """Returns whether a text leaves the picture, what it hides, and how many lines it crosses.

    The worst is first: the end of a text is lost, a line runs on.
    """
    box, room = text.get_window_extent(), axes.get_window_extent()
    hidden = sum(box.overlaps(other) for other in taken)
    crossed = 0
    for line in axes.lines:
        path = line.get_transform().transform_path(line.get_path())
        marks: Any = path.vertices
        # Its own mark is further away than that.
        hidden += sum(box.padded(_MARK).contains(*mark) for mark in marks)
        crossed += line.get_linestyle() != "None" and path.intersects_bbox(box, filled=False)
    return bool(box.x0 < room.x0 or box.x1 > room.x1), int(hidden), int(crossed)


def note(axes: Axes, text: str, at: tuple[float, float], **how: Any) -> None:
    """Writes a text beside a point; the page gives it a rim that keeps it legible on lines."""
    style: dict[str, Any] = {
        "xytext": (7, 0),
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 11.5,
    }
    axes.annotate(text, at, **(style | how))


def _adopt(content: bytes, key: str, title: str, said: str) -> Markup:
    """Returns an SVG as a part of the page: named, in its colours and letters, without a size."""
    from markupsafe import Markup

    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(content)
    for name in ("width", "height", "version"):
        root.attrib.pop(name)
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-desc")
    for element in root.iter():
        # Names that nothing refers to, the same ones in every picture.
        if element.tag == f"{{{_SVG}}}g":
            element.attrib.pop("id", None)
        element.tail = None
        if element.tag != f"{{{_SVG}}}text":
            element.text = None
    for place, (name, text) in enumerate((("title", title), ("desc", said))):
        element = ElementTree.Element(f"{{{_SVG}}}{name}", id=f"{key}-{name}")
        element.text = readable(text)
        root.insert(place, element)
    text = _NEEDLESS.sub("", ElementTree.tostring(root, encoding="unicode"))
    text = _DECIMALS.sub(r"\1", text)
    return Markup(_COLORS.sub(lambda match: f"var(--{_VARIABLES[match[0]]})", text))
