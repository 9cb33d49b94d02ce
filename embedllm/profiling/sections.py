"""The parts of a step, and which of them runs at any moment.

The engine is left as it is: for the length of a block, its functions are replaced by ones that
say when they begin and end (`instrumented`). A part inside another one interrupts it, so every
moment of a step belongs to exactly one part.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from enum import StrEnum
from functools import wraps
from itertools import count
from typing import Any, Final

from torch import nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from embedllm.models.prefix import compute_prefix
from embedllm.models.recompute import recomputed
from embedllm.prefetch import prefetch
from embedllm.profiling.observers import Observer
from embedllm.prompts.tokenize import tokenize_rows


class Part(StrEnum):
    """A part of a step."""

    DATA = "data"
    TOKENIZATION = "tokenization"
    PREFIX = "prefix"
    TRUNK = "trunk"
    POOLING = "pooling"
    LOSS = "loss"
    BACKWARD = "backward"
    RECOMPUTATION = "recomputation"
    OPTIMIZER = "optimizer"
    OTHER = "other"


TRAIN_PARTS: Final = tuple(part for part in Part if part is not Part.TOKENIZATION)
ENCODE_PARTS: Final = (Part.TOKENIZATION, Part.PREFIX, Part.TRUNK, Part.POOLING, Part.OTHER)
# Parts that others interrupt. What runs inside any other part belongs to it: a prefix is a call
# of the trunk, and so is a forward pass that is computed again.
_OPEN: Final = (Part.OTHER, Part.POOLING, Part.BACKWARD, Part.OPTIMIZER)


class Sections:
    """Tells an observer when the running part changes, and counts the tokens of a step."""

    def __init__(self) -> None:
        self._running = [Part.OTHER]
        self._labels: list[Any] = []
        self._observer = Observer()
        self.tokens: Counter[str] = Counter()
        """`real`: of all texts; `trunk`: what went through the trunk, without recomputation."""

    @property
    def running(self) -> Part:
        """The part that runs now."""
        return self._running[-1]

    def begin(self, observer: Observer) -> None:
        """Begins a step that `observer` sees."""
        self.tokens.clear()
        self._observer = observer
        observer.begin()

    def end(self) -> None:
        """Ends the step."""
        self._observer.switch(Part.OTHER)
        self._observer.end()
        self._observer = Observer()

    def part(self, part: Part) -> AbstractContextManager[None]:
        """Returns a block that is this part, as often as it is entered."""
        return _Section(self, part)

    def enter(self, part: Part) -> None:
        """Makes this the running part, inside the one that was."""
        if self.running in _OPEN:
            self._observer.switch(self.running)
            self._running.append(part)
        else:
            self._running.append(self.running)
        # In a trace the parts stand above the operations they are made of.
        self._labels.append(record_function(f"embedllm: {part}").__enter__())

    def leave(self) -> None:
        """Goes back to the part that was running before."""
        self._labels.pop().__exit__(None, None, None)
        part = self._running.pop()
        if part is not self.running:
            self._observer.switch(part)

    def timed(self, part: Part) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Returns a decorator whose functions are this part."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(function)
            def call(*arguments: Any, **keywords: Any) -> Any:
                with self.part(part):
                    return function(*arguments, **keywords)

            return call

        return decorate


class _Section(AbstractContextManager[None]):
    """A block of one part; activation checkpointing may enter it again."""

    def __init__(self, sections: Sections, part: Part) -> None:
        self._sections = sections
        self._part = part

    def __enter__(self) -> None:
        self._sections.enter(self._part)

    def __exit__(self, *error: object) -> None:
        self._sections.leave()


@contextmanager
def instrumented(sections: Sections, trunk: nn.Module) -> Iterator[None]:
    """Makes tokenization, the prefix, the trunk and recomputation known to `sections`.

    Args:
        sections: What is told.
        trunk: The trunk of the embedder; every call of it is a forward pass.
    """

    def time_trunk(forward: Callable[..., Any]) -> Callable[..., Any]:
        timed = sections.timed(Part.TRUNK)(forward)

        @wraps(forward)
        def call(*arguments: Any, **keywords: Any) -> Any:
            if sections.running is not Part.RECOMPUTATION:
                sections.tokens["trunk"] += keywords["input_ids"].numel()
            return timed(*arguments, **keywords)

        return call

    def count_tokens(tokenize: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(tokenize)
        def call(*arguments: Any, **keywords: Any) -> Any:
            rows = tokenize(*arguments, **keywords)
            sections.tokens["real"] += sum(len(row.ids) for row in rows)
            return rows

        return call

    # Sentences are tokenized on a thread of their own; what a call of the encoder pays is the wait.
    def time_waiting(prefetch: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(prefetch)
        def call(*arguments: Any, **keywords: Any) -> Iterator[Any]:
            with closing(prefetch(*arguments, **keywords)) as results:
                next_of = sections.timed(Part.TOKENIZATION)(next)
                while (result := next_of(results, None)) is not None:
                    yield result

        return call

    def time_recomputation(function: Callable[..., Any]) -> Callable[..., Any]:
        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), sections.part(Part.RECOMPUTATION)

        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            return function(*arguments, context_fn=contexts, **keywords)

        return call

    def time_second_run(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(run: Callable[..., Any], *arguments: Any) -> Any:
            runs = count()

            def timed(inputs: Any) -> Any:
                is_first = next(runs) == 0
                with nullcontext() if is_first else sections.part(Part.RECOMPUTATION):
                    return run(inputs)

            return function(timed, *arguments)

        return call

    with ExitStack() as stack:
        stack.enter_context(replaced(trunk, "forward", time_trunk))
        wrappers = (
            (compute_prefix, sections.timed(Part.PREFIX)),
            (tokenize_rows, count_tokens),
            (prefetch, time_waiting),
            (checkpoint, time_recomputation),
            (recomputed, time_second_run),
        )
        for function, wrap in wrappers:
            for module, name in _holders(function):
                stack.enter_context(replaced(module, name, wrap))
        yield


def _holders(function: object) -> list[tuple[object, str]]:
    """Returns the modules of the engine that call a function, and its name there."""
    modules = [m for name, m in sys.modules.items() if name.startswith("embedllm.models.")]
    return [(m, name) for m in modules for name, value in vars(m).items() if value is function]


@contextmanager
def replaced(
    owner: object, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Replaces a function of a module or an object by a wrapped one for the length of a block."""
    function = getattr(owner, name)
    is_own = name in vars(owner)
    setattr(owner, name, wrap(function))
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)
