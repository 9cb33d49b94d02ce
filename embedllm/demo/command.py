"""What `python -m embedllm demo` does: take a port, load the model, serve the page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from embedllm.config import DemoConfig
from embedllm.console import print_line
from embedllm.demo.sides import load_sides
from embedllm.demo.worker import Worker
from embedllm.errors import INTERRUPTED, ConfigError
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries
from embedllm.models.backbone import resolve_device
from embedllm.models.configured import EncoderChoice, choose_encoder
from embedllm.prompts.template import build_more_prompts, build_prompt

if TYPE_CHECKING:
    from embedllm.demo.page import DemoPage

_log = get_logger(__name__)


def run_demo(config: DemoConfig, invocation: Invocation) -> None:
    """Serves the page until Ctrl-C.

    Args:
        config: The checked configuration.
        invocation: How the command was called.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    quiet_libraries()
    try:
        import nicegui  # noqa: F401
    except ImportError:
        raise ConfigError("the demo needs NiceGUI: pip install 'embedllm[demo]'") from None
    from embedllm.demo.server import is_loopback, open_socket, serve

    choice = choose_encoder(
        config.model,
        config.prompt,
        adapter_path=config.adapter_path,
        overrides=invocation.overrides,
    )
    build_prompt(choice.prompt)
    build_more_prompts(choice.prompt)
    with open_socket(config.host, config.port) as bound:
        if not is_loopback(config.host):
            _log.warning(
                "host=%s: whoever reaches this address can use the page and what it computes; "
                "host=127.0.0.1 is for this machine alone",
                config.host,
            )
        page, worker = _load_page(config, choice)
        port = bound.getsockname()[1]
        shown = f"[{config.host}]" if ":" in config.host else config.host
        url = f"http://{shown}:{port}/"
        invocation.show({"url": url}, lambda console: print_line(console, url))
        _log.info("the page is open at that address; Ctrl-C ends it")
        try:
            serve(page.build, bound, max_upload_bytes=config.max_upload_bytes, title="embedllm")
        except KeyboardInterrupt:
            _leave()
        finally:
            worker.close()


def _load_page(config: DemoConfig, choice: EncoderChoice) -> tuple[DemoPage, Worker]:
    from embedllm.demo.page import DemoPage

    sides = load_sides(choice, Path(config.paths.cache_dir), device=resolve_device())
    _log.info("prompt in use: %s", sides[-1].encoder.describe())
    worker = Worker(config.max_waiting)
    page = DemoPage(sides, config, worker=worker, facts=_facts(choice))
    return page, worker


def _facts(choice: EncoderChoice) -> dict[str, str]:
    """Returns what the head of the page says."""
    facts = {"Model": choice.model.name.rpartition("/")[2] or choice.model.name}
    if choice.adapter is not None:
        # A run folder calls it `adapter`, so the run's name says more.
        folder = choice.adapter.resolve()
        facts["Adapter"] = folder.parent.name if folder.name == "adapter" else folder.name
    facts["Prompt"] = choice.prompt.template
    if choice.prompt.demonstrations:
        facts["Demonstrations"] = str(len(choice.prompt.demonstrations))
    return facts


def _leave() -> NoReturn:
    _log.info("stopped")
    sys.exit(INTERRUPTED)
