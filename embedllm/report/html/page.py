"""The page: all its sections in one HTML text that refers to no other file."""

from __future__ import annotations

from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from embedllm.program import on_page
from embedllm.report.content import PageContent
from embedllm.report.html.demonstrations import demonstrations_section
from embedllm.report.html.drawing import readable
from embedllm.report.html.geometry import geometry_section
from embedllm.report.html.learning import learning_section
from embedllm.report.html.parts import Section
from embedllm.report.html.prompts import prompts_section
from embedllm.report.html.scaling import scaling_section
from embedllm.report.html.scores import runs_section, sts_section, transfer_section
from embedllm.report.html.speed import speed_section

_TEMPLATES: Final = "templates"
# DataTables with what it needs, as one module; part of the library itables.
_TABLES_SCRIPT: Final = "html/dt_bundle.js"


def build_html(content: PageContent) -> str:
    """Returns the page; the same content gives the same text.

    Whatever is in a name, a prompt or a command is shown as text.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_show,
    )
    environment.filters["on_page"] = on_page
    report = content.tables.report
    return environment.from_string(_read("page.html.j2")).render(
        sections=_sections(content),
        published=content.tables.published,
        command=content.command,
        num_results=len(report.runs) + len(report.unused),
        models=list(dict.fromkeys(row.base for row in report.rows)),
        style=Markup(_read("page.css")),
        script=Markup(_read("page.js")),
        tables_script=Markup(_read_tables_script()),
    )


def _sections(content: PageContent) -> list[Section]:
    return [
        sts_section(content),
        prompts_section(content),
        demonstrations_section(content),
        scaling_section(content),
        learning_section(content),
        geometry_section(content),
        transfer_section(content),
        speed_section(content),
        runs_section(content.tables.report),
    ]


def _show(value: Any) -> Any:
    """Returns a text as it can be read; what is HTML already, and other values, as they are."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return readable(value) if is_text else value


def _read(name: str) -> str:
    folder = resources.files("embedllm.report.html").joinpath(_TEMPLATES)
    return folder.joinpath(name).read_text("utf-8")


def _read_tables_script() -> str:
    """Returns the library's script without importing the library, which would import pandas."""
    found = find_spec("itables")
    assert found is not None
    assert found.submodule_search_locations is not None
    text = Path(found.submodule_search_locations[0], _TABLES_SCRIPT).read_text("utf-8")
    # It stands in a script element, which this would end.
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
