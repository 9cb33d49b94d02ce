"""What a training example is, and which columns of a source hold its texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from embedllm.errors import DataError

# (anchor, positive) as published: SimCSE's `nli_for_simcse.csv`, then the `triplet` subset of
# sentence-transformers/all-nli, then the retrieval sets of the same publisher.
_LAYOUTS = (("sent0", "sent1"), ("anchor", "positive"), ("query", "positive"))
_NEGATIVE = re.compile(r"(hard_neg|negative)(?:_([0-9]+))?")
_NEGATIVE_LIST = "negatives"
_LAYOUT_HELP = """Layouts understood:
  SimCSE: sent0, sent1 [, hard_neg, hard_neg_1, hard_neg_2, ...]
  sentence-transformers: anchor or query, positive [, negative, negative_1, negative_2, ...]
  JSON lines and Parquet: either pair with a list-valued column `negatives`
Any other names are chosen with data.columns.anchor, data.columns.positive and \
data.columns.negatives (a list, empty for pairs)."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Example:
    """One contrastive training example; every text is kept exactly as the source has it."""

    anchor: str
    """Text whose embedding is pulled towards that of `positive`."""
    positive: str
    """Text that means the same or is entailed; equal to `anchor` in unsupervised training."""
    negatives: tuple[str, ...]
    """Hard negatives of this anchor, most columns first; empty for pairs."""


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """The columns that hold an example, by name in the source."""

    anchor: str
    """Column of the anchor (`data.columns.anchor`)."""
    positive: str
    """Column of the positive (`data.columns.positive`); may be the anchor's own column."""
    negatives: tuple[str, ...] = ()
    """Columns of the hard negatives in order (`data.columns.negatives`)."""

    @property
    def in_order(self) -> tuple[str, ...]:
        """Anchor, positive and negatives: the order in which `to_example` takes values."""
        return (self.anchor, self.positive, *self.negatives)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row is no example."""

    column: str | None
    """Column at fault, or None when the row as a whole is."""
    reason: str
    """Verb phrase, for example `is empty`."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that a source could not deliver; `reason` is a verb phrase."""

    reason: str


MISSING = Unreadable("is missing")


def resolve_columns(names: Sequence[str], *, columns: ColumnNames | None) -> ColumnNames:
    """Returns the columns to read: the chosen ones, or those of a layout that `names` follows.

    Args:
        names: All column names of the source, in its order.
        columns: The explicit choice of the configuration, or None to recognize a layout.

    Returns:
        The names of the columns; numbered negatives come in the order of their numbers.

    Raises:
        DataError: No layout or more than one fits, a chosen column is not there or is there
            twice, or a negative is chosen that is also another role.
    """
    chosen = _recognize(names) if columns is None else columns
    absent = [name for name in chosen.in_order if name not in names]
    if absent:
        raise _column_error(f"chosen columns are missing: {_show(absent)}", names)
    repeated = [name for name in chosen.in_order if names.count(name) > 1]
    if repeated:
        raise _column_error(f"columns occur more than once: {_show(repeated)}", names)
    # Anchor and positive may share a column (unsupervised SimCSE), a negative may not: it would
    # push a text away from itself.
    if len(set(chosen.in_order)) < len({chosen.anchor, chosen.positive}) + len(chosen.negatives):
        raise _column_error("data.columns.negatives repeats a column already in use", names)
    return chosen


def find_negatives(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names that a layout reads as hard negatives, in the order of their numbers."""
    numbered = [
        (match[1], int(match[2] or -1), name)
        for name in names
        if (match := _NEGATIVE.fullmatch(name))
    ]
    in_order = [name for _, _, name in sorted(numbered)]
    return (*in_order, *(name for name in names if name == _NEGATIVE_LIST))


def to_example(values: Sequence[object], names: Sequence[str]) -> Example | Problem:
    """Returns the example that a row holds, or the first thing that is wrong with it.

    Args:
        values: Values of the row in the order of `ColumnNames.in_order`. A negative may be a
            list of texts, of any length; every other value must be one text.
        names: The names of the same columns, for the report.
    """
    texts: list[str] = []
    for index, value in enumerate(values):
        items = value if index >= 2 and isinstance(value, list) else [value]
        for position, item in enumerate(items):
            if fault := _find_fault(item):
                name = f"{names[index]}[{position}]" if items is value else names[index]
                return Problem(name, fault)
            texts.append(cast(str, item))
    return Example(texts[0], texts[1], tuple(texts[2:]))


def _find_fault(value: object) -> str | None:
    """Says in a verb phrase why `value` is no text of an example; None where it is one."""
    if isinstance(value, str) and not value.strip():
        return "is empty"
    return find_text_fault(value)


def find_text_fault(value: object) -> str | None:
    """Says in a verb phrase why `value` is no text; None for any text, an empty one too."""
    if isinstance(value, str):
        # No tokenizer accepts half a surrogate pair; JSON can spell one as an escape.
        is_whole = value.isascii() or not _SURROGATE.search(value)
        return None if is_whole else "has half of a surrogate pair"
    if isinstance(value, Unreadable):
        return value.reason
    return "is null" if value is None else f"is {type(value).__name__}, expected text"


def _recognize(names: Sequence[str]) -> ColumnNames:
    """Returns the columns of the one layout whose anchor and positive are both in `names`."""
    matches = [pair for pair in _LAYOUTS if set(pair) <= set(names)]
    if not matches:
        raise _column_error("the columns follow no layout", names)
    if len(matches) > 1:
        raise _column_error("the columns follow more than one layout", names)
    return ColumnNames(*matches[0], find_negatives(names))


def _column_error(problem: str, names: Sequence[str]) -> DataError:
    return DataError(f"{problem}.\nColumns found: {_show(names)}.\n{_LAYOUT_HELP}")


def _show(names: Sequence[str]) -> str:
    """Joins names, shortened: in a file without a header they are whole sentences."""
    short = [n if len(n) <= _MAX_SHOWN_CHARS else n[:_MAX_SHOWN_CHARS] + "..." for n in names]
    return ", ".join(repr(name) for name in short) or "none"
