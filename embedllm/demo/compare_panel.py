"""Sentences beside one another: how alike each two are."""

from __future__ import annotations

from typing import Final

from nicegui import ui

from embedllm.demo import examples
from embedllm.demo.inputs import split_lines
from embedllm.demo.panel import Panel
from embedllm.demo.render import render_matrix

# Larger tables stand below one another.
_MAX_BESIDE: Final = 6


class ComparePanel(Panel):
    """The table of cosines of some sentences."""

    def build(self) -> None:
        """Puts the part onto the page."""
        ui.label(
            "Every sentence becomes one vector. The number is the cosine of two of them: "
            "1 for the same direction, 0 for nothing in common."
        ).classes("lead")
        self._text = ui.textarea(
            f"Sentences, one a line (at most {self.config.max_compared})",
            value="\n".join(examples.COMPARED[: self.config.max_compared]),
        )
        # One more than is taken, so that what is too long is seen to be too long.
        self._text.props(f"outlined autogrow maxlength={self.config.max_characters + 1}")
        self.run_at_control_enter(self._text)
        self.add_button("Compare", keys=("Ctrl", "Enter"))

    async def answer(self) -> None:
        """Shows one table for each model."""
        sentences = split_lines(self._text.value or "", self.config, limit_key="max_compared")
        vectors = await self.encode(sentences)
        self.show(
            *(
                render_matrix(side.name, sentences, found @ found.T)
                for side, found in zip(self.sides, vectors, strict=True)
            ),
            is_wide=len(sentences) > _MAX_BESIDE,
        )
