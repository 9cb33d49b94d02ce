"""`python -m embedllm export`: adapter in, checked folder out, to the hub where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedllm.config import ExportConfig
from embedllm.console import print_line
from embedllm.export.card import write_card
from embedllm.export.output_folder import finished_export
from embedllm.export.push import list_upload, push_folder, upload_table
from embedllm.export.source import open_source
from embedllm.export.write import write_export
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

_log = get_logger(__name__)


def run_export(config: ExportConfig, invocation: Invocation) -> None:
    """Makes the folder, or says that it is there, and sends it to the hub.

    Args:
        config: The checked configuration.
        invocation: How the command was called.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    quiet_libraries()
    source = open_source(config.adapter_path, config.dtype)
    output = Path(config.output).expanduser()
    is_there = finished_export(config, source) and not config.overwrite
    if is_there:
        write_card(output, config, source)
    else:
        output = write_export(config, source)
    state = "there already" if is_there else "written and compared"
    line = f"{config.format} in {source.dtype}, {state}: {output}"
    record: dict[str, Any] = {
        "output": str(output),
        "format": config.format,
        "dtype": str(source.dtype),
        "was_there": is_there,
    }
    if config.push is not None and config.push_dry_run:
        record["would_push"] = list_upload(output)
    elif config.push is not None:
        _log.info("%s", line)
        record["pushed"] = push_folder(output, config)

    def draw(console: Console) -> None:
        print_line(console, line)
        if "would_push" in record:
            console.print(upload_table(record["would_push"], config))
        if "pushed" in record:
            print_line(console, f"pushed: {record['pushed']}")

    invocation.show(record, draw)
