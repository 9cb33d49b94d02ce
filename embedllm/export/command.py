"""`python -m embedllm export`: adapter in, checked folder out, to the hub where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedllm.config import ExportConfig
from embedllm.console import print_line
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
    quiet_libraries()
    source = open_source(config.adapter_path, config.dtype)
    output = Path(config.output).expanduser()
    is_there = finished_export(config, source) and not config.overwrite
    if not is_there:
        output = write_export(config, source)
    state = "there already" if is_there else "written and compared"
    lines = [f"{config.format} in {source.dtype}, {state}: {output}"]
    record: dict[str, Any] = {
        "output": str(output),
        "format": config.format,
        "dtype": str(source.dtype),
        "was_there": is_there,
    }
    if config.push is not None and config.push_dry_run:
        record["would_push"] = list_upload(output, config)
        lines.append(record["would_push"])
    elif config.push is not None:
        _log.info("%s", lines[0])
        record["pushed"] = str(push_folder(output, config))
        lines.append(f"pushed: {record['pushed']}")
    invocation.show(record, lambda console: print_line(console, "\n".join(lines)))
