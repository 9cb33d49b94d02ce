"""What the model reads for a sentence, and the word that it would say."""

from __future__ import annotations

from functools import partial

from nicegui import ui

from embedllm.demo import examples
from embedllm.demo.inputs import check_sentence
from embedllm.demo.panel import Panel
from embedllm.demo.render import render, render_parts, render_words
from embedllm.prompts.parts import PromptParts, take_apart


class PromptPanel(Panel):
    """The prompt token by token, and the model's most likely words."""

    def build(self) -> None:
        """Puts the part onto the page."""
        ui.label(
            "The model is asked for the meaning of the sentence in one word. The vector is its "
            "state at the last token, where it is about to say that word."
        ).classes("lead")
        self._text = ui.input("Sentence", value=examples.SENTENCE)
        self._text.props(f"outlined autogrow maxlength={self.config.max_sentence_characters + 1}")
        self.run_at_enter(self._text)
        self.add_button("Show", keys=("Enter",))

    async def answer(self) -> None:
        """Shows the tokens and the words of each model."""
        sentence = check_sentence(self._text.value or "", self.config)
        encoder = self.sides[0].encoder
        parts = await self.worker.run(partial(self._take_apart, sentence))
        pictures = [
            render_parts(parts, is_read_last=encoder.embedder.settings()["pooling"] == "last")
        ]
        words = []
        for side in self.sides:
            if side.words is not None:
                ask = partial(side.most_likely, sentence, num_words=self.config.num_words)
                words.append(render_words(side.name, await self.worker.run(ask)))
        if words:
            pictures.append(render("answers.html", columns=words, num_sides=len(words)))
        self.show(*pictures, is_wide=True)

    def _take_apart(self, sentence: str) -> PromptParts:
        encoder = self.sides[0].encoder
        return take_apart(
            sentence,
            tokenizer=encoder.tokenizer,
            prompt=encoder.prompt,
            max_length=encoder.max_length,
        )
