"""Every moment of a step belongs to one part, and the engine is itself again afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from encoder_builder import EncoderBuilder
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ModelFactory

from embedllm.models import checkpointing, embed_rows, encoder, prefix
from embedllm.profiling.observers import Observer
from embedllm.profiling.sections import Part, Sections, instrumented, replaced

OPEN = (Part.OTHER, Part.POOLING, Part.BACKWARD, Part.OPTIMIZER)
# A part and the parts inside it.
Tree = tuple[Part, list[Any]]
TREES = st.recursive(
    st.tuples(st.sampled_from(Part), st.just([])),
    lambda inner: st.tuples(st.sampled_from(Part), st.lists(inner, max_size=3)),
    max_leaves=12,
)


class Ticks(Observer):
    """A clock that counts the moments of a step: each entry and each exit is one."""

    def __init__(self) -> None:
        self.now = self._last = 0
        self.charged: Counter[str] = Counter()
        self.has_ended = False

    def begin(self) -> None:
        self._last = self.now

    def switch(self, ended: str) -> None:
        self.charged[ended] += self.now - self._last
        self._last = self.now

    def end(self) -> None:
        self.has_ended = True


def walk(tree: Tree, sections: Sections, ticks: Ticks, around: Part, due: Counter[str]) -> None:
    """Runs a tree of parts; `due` gets what each of them should be charged."""
    part, inner = tree
    effective = part if around in OPEN else around
    with sections.part(part):
        assert sections.running is effective
        for child in [*inner, None]:
            ticks.now += 1
            due[effective] += 1
            if child is not None:
                walk(child, sections, ticks, effective, due)
    ticks.now += 1
    due[around] += 1


@given(st.lists(TREES, max_size=4))
def test_every_moment_is_charged_to_the_part_that_runs(trees: list[Tree]) -> None:
    sections, ticks, due = Sections(), Ticks(), Counter[str]()
    sections.begin(ticks)
    for tree in trees:
        walk(tree, sections, ticks, Part.OTHER, due)
    sections.end()
    assert ticks.has_ended
    assert +ticks.charged == +due
    assert ticks.charged.total() == ticks.now


def test_a_section_may_be_entered_again() -> None:
    """Activation checkpointing holds one block for each recomputation."""
    sections, ticks = Sections(), Ticks()
    sections.begin(ticks)
    block = sections.part(Part.RECOMPUTATION)
    for _ in range(3):
        with block:
            ticks.now += 1
    sections.end()
    assert ticks.charged == {Part.RECOMPUTATION: 3, Part.OTHER: 0}


def test_a_part_ends_with_an_error() -> None:
    sections, ticks = Sections(), Ticks()
    sections.begin(ticks)

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        sections.timed(Part.TRUNK)(fail)()
    assert sections.running is Part.OTHER


def test_outside_a_step_nothing_is_charged() -> None:
    sections, ticks = Sections(), Ticks()
    with sections.part(Part.TRUNK):
        ticks.now += 1
    sections.begin(ticks)
    sections.end()
    with sections.part(Part.TRUNK):
        ticks.now += 1
    assert +ticks.charged == {}


@pytest.mark.parametrize("is_own", [True, False])
def test_a_replaced_function_comes_back(is_own: bool) -> None:
    class Owner(SimpleNamespace):
        def call(self) -> int:
            return 1

    owner = Owner(**({"call": lambda: 2} if is_own else {}))
    before, names = owner.call(), set(vars(owner))

    def double(function: Callable[[], int]) -> Callable[[], int]:
        return lambda: 2 * function()

    with pytest.raises(KeyError), replaced(owner, "call", double):
        assert owner.call() == 2 * before
        raise KeyError
    assert owner.call() == before
    assert set(vars(owner)) == names


def _engine() -> list[object]:
    return [
        embed_rows.compute_prefix,
        encoder.compute_prefix,
        prefix.compute_prefix,
        encoder.tokenize_rows,
        embed_rows.recomputed,
        checkpointing.checkpoint,
    ]


def test_the_engine_gives_the_same_vectors_and_is_itself_again(
    build_encoder: EncoderBuilder, tiny_llama: ModelFactory
) -> None:
    one = build_encoder(tiny_llama())
    sentences = [f"{word} is here" for word in ("a man", "a dog", "no", "somebody else", "")]
    expected, functions = one.encode(sentences), _engine()
    sections, ticks = Sections(), Ticks()
    trunk = one.embedder.trunk
    with instrumented(sections, trunk):
        assert not any(a is b for a, b in zip(_engine(), functions, strict=True))
        assert "forward" in vars(trunk)
        sections.begin(ticks)
        with sections.part(Part.POOLING):
            found = one.encode(sentences)
        sections.end()
    np.testing.assert_array_equal(found, expected)
    assert all(a is b for a, b in zip(_engine(), functions, strict=True))
    assert "forward" not in vars(trunk)
    # All parts of encoding were seen, and the tokens are those that the encoder says.
    wanted = {Part.TOKENIZATION, Part.PREFIX, Part.TRUNK, Part.POOLING, Part.OTHER}
    assert ticks.charged.keys() == wanted
    assert sections.tokens["real"] == sum(map(len, one.token_ids(sentences)))
    assert 0 < sections.tokens["trunk"] < sections.tokens["real"]


def test_rows_without_anything_in_common_go_through_the_trunk_as_they_are(
    build_encoder: EncoderBuilder, tiny_opt: ModelFactory
) -> None:
    one = build_encoder(tiny_opt(), tokens_per_batch=1)
    one.share_prefix = False
    sentences = ["a man", "a longer sentence about a dog"]
    # The first call also tries what the model can do.
    one.encode(sentences)
    sections = Sections()
    with instrumented(sections, one.embedder.trunk):
        sections.begin(Observer())
        one.encode(sentences)
        sections.end()
    assert sections.tokens["trunk"] == sections.tokens["real"] > 0
