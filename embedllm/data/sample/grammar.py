"""Slots, frames and drafts: how the sample data turns a meaning into an English sentence.

A *frame* is one kind of event with several templates that say the same thing and several that
contradict it. A template holds slots, ``{who}``, and local synonyms, ``[fixing|repairing]``. A
*slot* is a list of mutually exclusive *concepts*, each a tuple of phrases with the same meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Concept: TypeAlias = tuple[str, ...]

SLOT_PATTERN = re.compile(r"\{(\w+)\}")
ALTERNATIVES_PATTERN = re.compile(r"\[([^\]]+)\]")
# A dropped detail leaves its spaces, and at the front of a sentence also its comma.
_SPACE_PATTERN = re.compile(r"\s+([.,]?)")


@dataclass(frozen=True)
class Slot:
    """A place in a frame and what can stand there.

    Attributes:
        concepts: Mutually exclusive meanings, each with its interchangeable phrases.
        broader: Phrases for a hypernym of every concept; empty when there is none.
        is_detail: True for a modifier that may be left out (clothing, place, time).
    """

    concepts: tuple[Concept, ...]
    broader: Concept = ()
    is_detail: bool = False


@dataclass(frozen=True)
class Frame:
    """One kind of event.

    Attributes:
        topic: Broad topic, shared with at least one other frame of the split.
        same: Templates that mean the same; all of them hold every slot that is no detail.
        opposite: Templates that contradict ``same``; entry ``i`` is built like ``same[i]``.
        swap: Two slots of one kind whose exchange gives a contradiction, or None.
    """

    topic: str
    same: tuple[str, ...]
    opposite: tuple[str, ...]
    swap: tuple[str, str] | None = None

    @property
    def slots(self) -> tuple[str, ...]:
        """Returns the slot names of the frame in order of appearance."""
        return tuple(dict.fromkeys(SLOT_PATTERN.findall(" ".join(self.same))))


@dataclass(frozen=True)
class Vocabulary:
    """The slots and frames of one split; the three splits share none of either."""

    slots: Mapping[str, Slot]
    frames: tuple[Frame, ...]

    def slot(self, name: str) -> Slot:
        """Returns the slot ``name``; ``team2`` is a second slot filled like ``team``."""
        return self.slots[name.rstrip("2")]


@dataclass(frozen=True)
class Draft:
    """A sentence before it is written out.

    Attributes:
        frame: The event.
        template: A template of the frame with its local synonyms already chosen.
        template_index: Position of that template in ``frame.same`` or ``frame.opposite``.
        is_opposite: Whether the template comes from ``frame.opposite``.
        concepts: The meaning of each slot.
        phrases: The phrase chosen for each slot; an empty one leaves the slot out.
    """

    frame: Frame
    template: str
    template_index: int
    is_opposite: bool
    concepts: Mapping[str, Concept]
    phrases: Mapping[str, str]

    def text(self) -> str:
        """Returns the sentence, with a capital letter and single spaces."""
        filled = SLOT_PATTERN.sub(lambda match: self.phrases[match.group(1)], self.template)
        spaced = _SPACE_PATTERN.sub(lambda match: match.group(1) or " ", filled.lstrip(" ,"))
        return spaced[0].upper() + spaced[1:]


def slot(concepts: str, *, broader: str = "", is_detail: bool = False) -> Slot:
    """Builds a slot from text: ``;`` between concepts, ``|`` between their phrases.

    Example:
        >>> slot("a bicycle|a bike; a car|an automobile").concepts
        (('a bicycle', 'a bike'), ('a car', 'an automobile'))
    """
    parsed = tuple(
        tuple(phrase.strip() for phrase in concept.split("|")) for concept in concepts.split(";")
    )
    return Slot(parsed, tuple(broader.split("|")) if broader else (), is_detail)
