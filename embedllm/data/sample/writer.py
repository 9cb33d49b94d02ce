"""Draws random sentences, edits their meaning and says them in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from embedllm.data.sample.grammar import ALTERNATIVES_PATTERN, Draft, Frame, Vocabulary

T = TypeVar("T")


class Writer:
    """Draws, edits and rewords drafts of one split with one random stream.

    Args:
        vocabulary: Slots and frames of the split.
        seed: Any text; equal seeds give equal drafts on every Python version.
    """

    def __init__(self, vocabulary: Vocabulary, seed: str) -> None:
        self.vocabulary = vocabulary
        # Only Random.random() is promised to repeat across Python versions, and a text seed keeps
        # -1 and 1 apart.
        self._rng = Random(seed)

    def chance(self, ratio: float) -> bool:
        """Returns True with probability ``ratio``."""
        return self._rng.random() < ratio

    def pick(self, items: Sequence[T]) -> T:
        """Returns one of the items, all equally likely."""
        return items[int(self._rng.random() * len(items))]

    def draw(self, frame: Frame | None = None, *, shared: Draft | None = None) -> Draft:
        """Returns a random sentence, with the words of ``shared`` where a slot is the same."""
        frame = frame or self.pick(self.vocabulary.frames)
        draft = Draft(frame, "", -1, False, {}, {})
        for name in frame.slots:
            if shared is not None and name in shared.phrases:
                concepts = {**draft.concepts, name: shared.concepts[name]}
                phrases = {**draft.phrases, name: shared.phrases[name]}
                draft = replace(draft, concepts=concepts, phrases=phrases)
            else:
                draft = self.change(draft, name)
        return self._with_template(draft)

    def names(self, draft: Draft, *, details: bool) -> list[str]:
        """Returns the slots that are details, or those that are not."""
        slots = draft.frame.slots
        return [name for name in slots if self.vocabulary.slot(name).is_detail is details]

    def change(self, draft: Draft, name: str) -> Draft:
        """Gives slot ``name`` another concept, different from all of its kind in the sentence."""
        kind = name.rstrip("2")
        used = [concept for other, concept in draft.concepts.items() if other.rstrip("2") == kind]
        concept = self.pick([c for c in self.vocabulary.slot(name).concepts if c not in used])
        return self._set(draft, name, concept)

    def change_some(self, draft: Draft, *, details: bool) -> Draft:
        """Changes one slot that is a detail, or one that is not."""
        return self.change(draft, self.pick(self.names(draft, details=details)))

    def drop_detail(self, draft: Draft) -> Draft:
        """Leaves one detail out."""
        return self._set(draft, self.pick(self.names(draft, details=True)), ("",))

    def has_broader(self, draft: Draft) -> bool:
        """Returns whether some slot of the sentence has a hypernym."""
        return any(self.vocabulary.slot(name).broader for name in draft.frame.slots)

    def broaden(self, draft: Draft) -> Draft:
        """Puts a hypernym into one slot; needs ``has_broader``."""
        name = self.pick([n for n in draft.frame.slots if self.vocabulary.slot(n).broader])
        return self._set(draft, name, self.vocabulary.slot(name).broader)

    def contradict(self, draft: Draft) -> Draft:
        """Exchanges the roles, or takes the contradicting template built like the current one."""
        swap = draft.frame.swap
        if swap is not None and self.chance(0.5):
            exchange = {swap[0]: swap[1], swap[1]: swap[0]}
            return replace(
                draft,
                concepts={n: draft.concepts[exchange.get(n, n)] for n in draft.concepts},
                phrases={n: draft.phrases[exchange.get(n, n)] for n in draft.phrases},
            )
        template = self._resolve(draft.frame.opposite[draft.template_index], "")
        return replace(draft, template=template, is_opposite=True)

    def reword(self, draft: Draft, original: Draft) -> Draft:
        """Says ``draft`` with another template and other synonyms than ``original``."""
        for name, concept in draft.concepts.items():
            others = tuple(p for p in concept if p != original.phrases[name])
            draft = self._set(draft, name, others or concept, concept)
        return self._with_template(draft, original)

    def _set(
        self,
        draft: Draft,
        name: str,
        choices: Sequence[str],
        concept: tuple[str, ...] | None = None,
    ) -> Draft:
        concepts = {**draft.concepts, name: concept or tuple(choices)}
        phrases = {**draft.phrases, name: self.pick(choices)}
        return replace(draft, concepts=concepts, phrases=phrases)

    def _with_template(self, draft: Draft, original: Draft | None = None) -> Draft:
        templates = draft.frame.opposite if draft.is_opposite else draft.frame.same
        used = -1 if original is None else original.template_index
        index = self.pick([i for i in range(len(templates)) if i != used])
        avoid = "" if original is None else original.template
        return replace(draft, template=self._resolve(templates[index], avoid), template_index=index)

    def _resolve(self, template: str, avoid: str) -> str:
        """Chooses each local synonym, if possible one that ``avoid`` does not contain."""
        for match in ALTERNATIVES_PATTERN.findall(template):
            options = match.split("|")
            choice = self.pick([o for o in options if o not in avoid] or options)
            template = template.replace(f"[{match}]", choice, 1)
        return template
