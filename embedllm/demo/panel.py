"""What the three parts of the page have in common: a button, a message, progress, an answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from nicegui import ui
from numpy.typing import NDArray

from embedllm.config import DemoConfig
from embedllm.demo.sides import Side
from embedllm.demo.worker import Worker
from embedllm.errors import EmbedllmError
from embedllm.log import get_logger

_log = get_logger(__name__)

# A list is encoded in blocks of so many sentences, so that progress shows and others get a turn.
_BLOCK: Final = 32


class Panel:
    """One part of the page, of one visitor.

    Args:
        sides: The models.
        config: Limits.
        worker: Where everything is computed.
    """

    def __init__(self, sides: Sequence[Side], config: DemoConfig, worker: Worker) -> None:
        self.sides = sides
        self.config = config
        self.worker = worker

    def build(self) -> None:
        """Puts the part onto the page."""
        raise NotImplementedError

    async def answer(self) -> None:
        """Reads what was typed and shows what the models make of it.

        Raises:
            EmbedllmError: Something to mend, shown to the visitor.
        """
        raise NotImplementedError

    def add_button(self, text: str, *, keys: Sequence[str]) -> None:
        """Adds the button, and below it the places of message, progress and answer.

        Args:
            text: What it says.
            keys: Which keys do the same.
        """
        hint = " ".join(f"<kbd>{key}</kbd>" for key in keys)
        with ui.element("div").classes("actions"):
            self._button = ui.button(text, on_click=self.run).props("unelevated no-caps")
            ui.html(hint, sanitize=False).classes("hint")
        # Read out as soon as they change.
        self._message = ui.label().props('role="alert"').classes("message")
        self._progress = ui.linear_progress(0, show_value=False).props('aria-label="progress"')
        self._progress.set_visibility(False)
        self.result = ui.element("div").classes("result").props('aria-live="polite"')

    def run_at_control_enter(self, element: ui.element) -> None:
        """Lets Ctrl+Enter in a field do what the button does."""
        element.on("keydown.ctrl.enter", self.run)

    def run_at_enter(self, element: ui.element) -> None:
        """Lets Enter in a field that grows do what the button does, instead of beginning a line."""
        element.on("keydown.enter.prevent", self.run)

    async def run(self) -> None:
        """Shows the answer, or why there is none."""
        if not self._button.enabled:
            return
        self._button.disable()
        self._message.set_text("")
        try:
            await self.answer()
        except EmbedllmError as error:
            self.complain(str(error))
        except Exception:
            # Not to be lost: the visitor sees that it failed, the terminal shows why.
            _log.exception("a request of the page failed")
            self.complain("this went wrong; the terminal says why")
        finally:
            self._progress.set_visibility(False)
            self._button.enable()

    def complain(self, message: str) -> None:
        """Shows a message instead of an answer."""
        self.result.clear()
        self._message.set_text(message[:1].upper() + message[1:] + ".")

    async def encode(self, sentences: Sequence[str]) -> list[NDArray[np.float64]]:
        """Returns the vectors of every side, with progress on the page."""
        blocks = [sentences[i : i + _BLOCK] for i in range(0, len(sentences), _BLOCK)]
        total, done = len(sentences) * len(self.sides), 0
        self._progress.set_value(0)
        self._progress.set_visibility(len(blocks) > 1)
        vectors = []
        for side in self.sides:
            parts = []
            for block in blocks:
                parts.append(await self.worker.run(partial(side.encode, block)))
                done += len(block)
                self._progress.set_value(done / total)
            vectors.append(np.concatenate(parts))
        return vectors

    def show(self, *pictures: str, is_wide: bool = False) -> None:
        """Replaces the answer by pictures, as HTML in which all values are escaped.

        Args:
            pictures: One or several.
            is_wide: Put them below one another instead of side by side where there is room.
        """
        self.result.clear()
        self.result.classes(replace="result wide" if is_wide else "result")
        with self.result:
            for picture in pictures:
                ui.html(picture, sanitize=False)
