"""A list, and which of its sentences mean what a query means."""

from __future__ import annotations

import numpy as np
from nicegui import events, ui
from numpy.typing import NDArray

from embedllm.demo import examples
from embedllm.demo.inputs import (
    UPLOAD_SUFFIXES,
    check_sentence,
    checked_sentences,
    likely_column,
    read_upload,
    split_lines,
    too_large,
)
from embedllm.demo.panel import Panel
from embedllm.demo.render import Found, render_ranking
from embedllm.errors import DataError, EmbedllmError


class SearchPanel(Panel):
    """A search in a pasted or uploaded list."""

    _columns: dict[str, list[str]] | None = None
    # Of the list that was searched last, so that the next query costs one sentence.
    _listed: tuple[str, ...] = ()
    _vectors: tuple[NDArray[np.float64], ...] = ()

    def build(self) -> None:
        """Puts the part onto the page."""
        ui.label(
            "The sentences of the list are sorted by how close their vectors are to that of "
            "your question. No word needs to be the same."
        ).classes("lead")
        self._query = ui.input("Look for", value=examples.QUERY)
        self._query.props(f"outlined autogrow maxlength={self.config.max_sentence_characters + 1}")
        self.run_at_enter(self._query)
        self._text = ui.textarea(
            f"In these sentences, one a line (at most {self.config.max_listed:,})",
            value="\n".join(examples.LISTED[: self.config.max_listed]),
        )
        self._text.props(f"outlined maxlength={self.config.max_characters + 1} autogrow")
        self.run_at_control_enter(self._text)
        with ui.element("div").classes("upload"):
            self._upload = ui.upload(
                label=f"or a file: {', '.join(UPLOAD_SUFFIXES)}",
                auto_upload=True,
                max_file_size=self.config.max_upload_bytes,
                on_upload=self._take_file,
                on_rejected=self._refuse_file,
            ).props(f'flat bordered accept="{",".join(UPLOAD_SUFFIXES)}"')
            with ui.element("div").classes("file") as self._file:
                self._file_name = ui.label()
                self._column = ui.select([], label="Column").props("outlined dense")
                ui.button("Back to the text", on_click=self._forget_file).props("flat no-caps")
            self._file.set_visibility(False)
        self.add_button("Search", keys=("Ctrl", "Enter"))

    async def _take_file(self, event: events.UploadEventArguments) -> None:
        name = event.file.name
        try:
            columns = read_upload(name, await event.file.read(), self.config)
        except EmbedllmError as error:
            self.complain(str(error))
            return
        finally:
            self._upload.reset()
        self._columns = columns
        chosen = likely_column(columns)
        self._column.set_options(list(columns), value=chosen)
        self._column.set_visibility(len(columns) > 1)
        self._file_name.set_text(f"{name}: {len(columns[chosen]):,} lines")
        self._file.set_visibility(True)
        self._text.set_visibility(False)
        await self.run()

    def _refuse_file(self) -> None:
        self.complain(
            f"{too_large('the file', self.config)}. Taken are {', '.join(UPLOAD_SUFFIXES)}"
        )

    def _forget_file(self) -> None:
        self._columns = None
        self._file.set_visibility(False)
        self._text.set_visibility(True)

    async def answer(self) -> None:
        """Shows one list for each model, the closest sentences first."""
        query = check_sentence(self._query.value or "", self.config)
        if not query:
            raise DataError("there is nothing to look for; write a sentence above the list")
        sentences = tuple(dict.fromkeys(self._sentences()))
        if sentences != self._listed:
            self._vectors = tuple(await self.encode(sentences))
            self._listed = sentences
        # Others may come in between; what is shown belongs together.
        vectors = self._vectors
        queries = await self.encode([query])
        scores = [found @ asked[0] for found, asked in zip(vectors, queries, strict=True)]
        orders = [np.argsort(-score, kind="stable") for score in scores]
        before = None if len(orders) < 2 else {int(row): i for i, row in enumerate(orders[0], 1)}
        pictures = []
        for number, (side, score, order) in enumerate(zip(self.sides, scores, orders, strict=True)):
            found = [
                Found(
                    sentences[row],
                    float(score[row]),
                    rank,
                    before[row] if before and number else None,
                )
                for rank, row in enumerate(order[: self.config.num_results].tolist(), 1)
            ]
            pictures.append(render_ranking(side.name, found))
        self.show(*pictures)

    def _sentences(self) -> list[str]:
        if self._columns is None:
            return split_lines(self._text.value or "", self.config, limit_key="max_listed")
        lines = self._columns[str(self._column.value)]
        return checked_sentences(lines, self.config, limit_key="max_listed")
