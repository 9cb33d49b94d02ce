"""`python -m embedllm export`: adapter in, checked folder out, to the hub where asked for."""

from __future__ import annotations

from embedllm.config import ExportConfig
from embedllm.export.push import list_upload, push_folder
from embedllm.export.source import open_source
from embedllm.export.write import finished_export, write_export
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries

_log = get_logger(__name__)


def run_export(config: ExportConfig, invocation: Invocation) -> None:
    """Makes the folder, or says that it is there, and sends it to the hub.

    Args:
        config: The checked configuration.
        invocation: How the command was called.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    from pathlib import Path

    from rich.console import Console

    quiet_libraries()
    source = open_source(config.adapter_path, config.dtype)
    output = Path(config.output).expanduser()
    is_there = finished_export(config, source) and not config.overwrite
    if not is_there:
        output = write_export(config, source)
    say = Console().print
    state = "there already" if is_there else "written and compared"
    say(f"{config.format} in {source.dtype}, {state}: {output}", soft_wrap=True, markup=False)
    if config.push is None:
        return
    if config.push_dry_run:
        say(list_upload(output, config), soft_wrap=True)
        return
    say(f"pushed: {push_folder(output, config)}", soft_wrap=True, markup=False)
