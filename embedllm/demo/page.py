"""The page: its head, its three parts, its style."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from nicegui import ui

from embedllm.config import DemoConfig
from embedllm.demo.compare_panel import ComparePanel
from embedllm.demo.panel import Panel
from embedllm.demo.prompt_panel import PromptPanel
from embedllm.demo.render import render
from embedllm.demo.search_panel import SearchPanel
from embedllm.demo.sides import Side
from embedllm.demo.worker import Worker

_PARTS: dict[str, type[Panel]] = {
    "Compare": ComparePanel,
    "Search": SearchPanel,
    "Look inside": PromptPanel,
}


class DemoPage:
    """Builds the page anew for every visitor; the models are the same for all.

    Args:
        sides: The models.
        config: Limits.
        worker: Where everything is computed.
        facts: What is shown, in a few words: model, adapter, prompt.
    """

    def __init__(
        self, sides: Sequence[Side], config: DemoConfig, *, worker: Worker, facts: dict[str, str]
    ) -> None:
        self._sides = sides
        self._config = config
        self._worker = worker
        self._facts = facts
        self._style = (files("embedllm.demo") / "templates" / "style.css").read_text("utf-8")

    def build(self) -> None:
        """Puts everything onto the page of the visitor who has just come."""
        ui.add_css(self._style)
        ui.colors(primary="#0b6e6e")
        panels = {
            name: part(self._sides, self._config, self._worker) for name, part in _PARTS.items()
        }
        with ui.element("main"):
            ui.html(render("head.html", facts=self._facts), sanitize=False)
            with ui.tabs().props('align="left" no-caps inline-label dense') as tabs:
                for name in panels:
                    ui.tab(name)
            with ui.tab_panels(tabs, value=next(iter(panels)), animated=False, keep_alive=True):
                for name, panel in panels.items():
                    with ui.tab_panel(name):
                        panel.build()
        # The examples are answered at once: an empty page explains nothing.
        for panel in panels.values():
            ui.timer(0.1, panel.run, once=True)
